"""A workspace with a released version of a model that tells dark images from bright ones."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from pergola.components.evaluation.drift import request_log
from pergola.components.evaluation.drift.reference import describe, make_reference
from pergola.components.store.publish import publish
from pergola.components.workspace import Workspace
from tests.support import images as image_files
from tests.support import models

MODEL = "shades"


def image_of(number: int, shift: int = 0) -> bytes:
    """A noisy PNG, dark for even numbers and bright for odd ones. shift: of its brightness, 0 to 255."""
    rng = np.random.default_rng(number)
    level = (70 if number % 2 == 0 else 180) + rng.normal(0, 15) + shift
    return image_files.png(np.clip(rng.normal(level, 20, (12, 12, 3)), 0, 255).astype(np.uint8))


def workspace(root: Path, num_images: int = 80) -> Workspace:
    """Version 1 of "shades", published with the reference of `num_images` images."""
    from pergola.components.evaluation.loaded_model import LoadedModel

    made = Workspace(root)
    made.create()
    saved_model = models.classifier(root.parent / "trained")
    encoded = [image_of(number) for number in range(num_images)]
    with LoadedModel(saved_model) as model:
        answers = model.probabilities(encoded)
        sample = describe(encoded, answers, model.embeddings)
    true = np.arange(num_images) % 2
    confusion = np.zeros((2, 2), np.int64)
    np.add.at(confusion, (true, sample.predicted), 1)
    make_reference(sample, models.LABELS, confusion, root.parent / "notes")
    publish(saved_model, made.models, MODEL, 1, notes=root.parent / "notes")
    return made


def wait_for_log(workspace: Workspace, count: int, timeout_s: float = 20) -> None:
    """Until the log, which a server writes with a delay, has `count` images."""
    ends = time.monotonic() + timeout_s
    while True:
        try:
            files = request_log.log_files(workspace.request_log(MODEL))
            if request_log.span_of(files).count >= count:
                return
        except ValueError:
            pass
        assert time.monotonic() < ends, "the requests did not arrive in the log"
        time.sleep(0.1)


def write_log(workspace: Workspace, images: list[bytes], at_s: int = 1_800_000_000) -> None:
    """The log that a server would write for these requests to version 1, a second apart."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    from pergola.components.evaluation.loaded_model import LoadedModel

    with LoadedModel(workspace.models / MODEL / "1") as model:
        answers = model.probabilities(images)
    path = Path(f"{workspace.request_log(MODEL)}-20270115-080000-1-00000.tfrecord")
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for second, (image, answer) in enumerate(zip(images, answers, strict=True)):
            entry = prediction_log_pb2.PredictionLog()
            entry.log_metadata.model_spec.name = MODEL
            entry.log_metadata.model_spec.version.value = 1
            entry.log_metadata.timestamp_secs = at_s + second
            entry.predict_log.request.inputs["image"].CopyFrom(tf.make_tensor_proto([image]))
            outputs = entry.predict_log.response.outputs
            outputs["probabilities"].CopyFrom(tf.make_tensor_proto(answer[None]))
            writer.write(entry.SerializeToString())
