"""Warm-up requests: a server answers them before a version becomes available, so no client waits for tracing.

TensorFlow Serving reads them from assets.extra/tf_serving_warmup_requests, a TFRecord file of PredictionLog.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import TRAIN, Shards, SplitShards
from pergola.serving.wire import contract

EXTRA = "assets.extra"  # folder in a SavedModel for files that servers do not load as part of the model
FILE = "tf_serving_warmup_requests"
BATCHES = (1, 4)  # images per request


def write(shards_folder: Path, shards: Shards, saved_model: Path) -> Path:
    """Write requests with a few training images into the SavedModel; returns the file's path."""
    import tensorflow as tf

    images = encoded_images(shards_folder, shards.splits[TRAIN], sum(BATCHES))
    path = saved_model / EXTRA / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in BATCHES:
            batch, images = images[:size], images[size:]
            if batch:
                writer.write(_log(batch).SerializeToString())
    return path


def encoded_images(folder: Path, split: SplitShards, num_images: int) -> list[bytes]:
    """The first images of a split, as encoded bytes."""
    import tensorflow as tf

    files = [str(folder / name) for name in split.files]
    records = tf.data.TFRecordDataset(files).take(num_images).as_numpy_iterator()
    examples = [tf.train.Example.FromString(record) for record in records]
    return [example.features.feature["image"].bytes_list.value[0] for example in examples]


def _log(batch: list[bytes]) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = contract.SERVING_DEFAULT
    request.inputs[contract.IMAGE].CopyFrom(tf.make_tensor_proto(batch, tf.string, [len(batch)]))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
