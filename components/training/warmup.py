"""Warm-up requests: a server answers them before a version becomes available, so no client waits for tracing.

TensorFlow Serving reads them from assets.extra/tf_serving_warmup_requests, a TFRecord file of PredictionLog.
Tracing depends on the size and the file format of an image, and not on what it shows. So the images are made
up: a published version must never hold an image of the data set, which could not be removed from it again.
"""

from __future__ import annotations

import io
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.artifacts.data import TRAIN, Shards, SplitShards
from pergola.serving.wire import contract

EXTRA = "assets.extra"  # folder in a SavedModel for files that servers do not load as part of the model
FILE = "tf_serving_warmup_requests"
BATCHES = (1, 4)  # images per request
_SEEN = 256  # training images whose file format is looked at
_FORMATS = {b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP", b"GIF8": "GIF", b"BM": "BMP"}  # by their first bytes


def write(shards_folder: Path, shards: Shards, saved_model: Path) -> Path:
    """Write requests with synthetic images into the SavedModel; returns the file's path.

    The images have the median size of the data set, and the file formats of its first training images.
    """
    import tensorflow as tf

    formats = file_formats(shards_folder, shards.splits[TRAIN])
    shape = (shards.median_height, shards.median_width, shards.channels)
    images = list(islice((synthetic_image(shape, one) for one in cycle(formats)), sum(BATCHES)))
    path = saved_model / EXTRA / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in BATCHES:
            batch, images = images[:size], images[size:]
            writer.write(_log(batch).SerializeToString())
    return path


def file_formats(folder: Path, split: SplitShards) -> list[str]:
    """Pillow's names of the file formats in a split, the most frequent first; at least one."""
    import tensorflow as tf

    files = [str(folder / name) for name in split.files]
    records = tf.data.TFRecordDataset(files).take(_SEEN).as_numpy_iterator()
    examples = [tf.train.Example.FromString(record) for record in records]
    starts = [example.features.feature["image"].bytes_list.value[0][:4] for example in examples]
    found = Counter(
        next((name for start, name in _FORMATS.items() if bytes.startswith(start)), "PNG") for bytes in starts
    )
    return [name for name, _ in found.most_common()] or ["PNG"]


def synthetic_image(shape: tuple[int, int, int], format: str) -> bytes:
    """A file with a gradient under noise, always the same.  shape: height, width, channels (1 or 3)."""
    from PIL import Image

    height, width, channels = shape
    gradient = np.linspace(0, 160, height)[:, None, None] + np.linspace(0, 60, width)[None, :, None]
    noise = np.random.default_rng(0).integers(0, 36, shape)
    pixels = (gradient + noise).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, format)
    return file.getvalue()


def _log(batch: list[bytes]) -> Any:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = contract.SERVING_DEFAULT
    request.inputs[contract.IMAGE].CopyFrom(tf.make_tensor_proto(batch, tf.string, [len(batch)]))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
