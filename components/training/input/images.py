"""Decoded images and labels of a split, read from its shards into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pergola.components.artifacts.data import SplitShards
from pergola.components.imaging import decode

if TYPE_CHECKING:
    import tensorflow as tf

LabelledImages = tuple[NDArray[np.uint8], NDArray[np.int64]]  # (N, H, W, C) and (N,)


@dataclass(frozen=True)
class ImageShape:
    """The shape to which every image is resized."""

    height: int  # pixels
    width: int
    channels: int
    aspect: str

    @property
    def num_bytes(self) -> int:
        """Of one decoded image."""
        return self.height * self.width * self.channels


def read_split(
    folder: Path, split: SplitShards, shape: ImageShape, *, limit: int | None = None
) -> LabelledImages:
    """Images and labels of a split, in the order of the shards."""
    num_images = split.num_images if limit is None else min(limit, split.num_images)
    return read_sources([([str(folder / name) for name in split.files], num_images)], shape)[0]


def read_sources(sources: Sequence[tuple[Sequence[str], int]], shape: ImageShape) -> list[LabelledImages]:
    """Images and labels of several sources, in one pass.

    sources: for each, its files and how many images to read from them.
    """
    import tensorflow as tf

    total = sum(num_images for _, num_images in sources)
    images = np.empty((total, shape.height, shape.width, shape.channels), np.uint8)
    labels = np.empty((total,), np.int64)
    dataset = tf.data.TFRecordDataset([])
    for files, num_images in sources:
        dataset = dataset.concatenate(tf.data.TFRecordDataset(list(files)).take(num_images))
    dataset = mapped(dataset, lambda record: parse(record, shape))
    done = 0
    for some_images, some_labels in dataset.batch(64).prefetch(2).as_numpy_iterator():
        images[done : done + len(some_labels)] = some_images
        labels[done : done + len(some_labels)] = some_labels
        done += len(some_labels)
    ends = np.cumsum([num_images for _, num_images in sources])[:-1]
    return list(zip(np.split(images, ends), np.split(labels, ends), strict=True))


def mapped(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """The elements that a function makes of a dataset's, in their order, made in parallel.

    The function has no Python branch on a tensor: TensorFlow need not spend a second on its source.
    """
    import tensorflow as tf

    plain = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(plain, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def parse(record: Any, shape: ImageShape) -> tuple[tf.Tensor, tf.Tensor]:
    """The decoded image and the label of a serialised tf.train.Example."""
    import tensorflow as tf

    features = {"image": tf.io.FixedLenFeature((), tf.string), "label": label_feature()}
    example = tf.io.parse_single_example(record, features)
    image = decode.load_prepared(example["image"], shape.height, shape.width, shape.channels, shape.aspect)
    return image, example["label"]


def label_feature() -> Any:
    """How the label is stored in an example."""
    import tensorflow as tf

    return tf.io.FixedLenFeature((), tf.int64)
