"""Batches for training: from memory where the decoded pictures fit, else streamed from the shards.

What comes at a step depends on the seed, the epoch and the step only, so a run that was killed goes
on with the very batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.artifacts import Part
from components.data import images
from components.training import variation

if TYPE_CHECKING:
    import tensorflow as tf

_SHUFFLED = 2048  # pictures, encoded, that a streaming shuffle chooses from


@dataclass(frozen=True)
class Shape:
    """What every picture is brought to."""

    height: int  # pixels
    width: int
    channels: int
    aspect: str

    @property
    def num_bytes(self) -> int:
        """Of one decoded picture."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Variety:
    """How batches are drawn and varied."""

    batch_size: int
    seed: int
    policy: Mapping[str, float]
    num_classes: int
    class_weights: tuple[float, ...] = ()  # empty: every class counts the same


class Feed(Protocol):
    """Training batches: float32 (N, H, W, C) from 0 to 255, targets float32 (N, classes)[, weights (N,)]."""

    steps: int  # an epoch

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        """Those of steps `first_step` to `last_step` - 1, counted from the start of training."""
        ...


class MemoryFeed:
    """From decoded pictures. Each epoch is a permutation, whose last incomplete batch is left out."""

    def __init__(self, pictures: NDArray[np.uint8], labels: NDArray[np.int64], variety: Variety) -> None:
        self._pictures, self._labels, self._variety = pictures, labels, variety
        self._batch = min(variety.batch_size, len(labels))
        self.steps = max(1, len(labels) // self._batch)

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        import tensorflow as tf

        pictures, labels = tf.constant(self._pictures), tf.constant(self._labels)
        variety = self._variety
        signature = (tf.TensorSpec((self._batch,), tf.int64), tf.TensorSpec((), tf.int64))

        def indices() -> Iterator[tuple[NDArray[np.int64], int]]:
            return self._indices(first_step, last_step)

        def make(index: Any, step: Any) -> Any:
            return _vary(tf.gather(pictures, index), tf.gather(labels, index), step, variety)

        dataset = tf.data.Dataset.from_generator(indices, output_signature=signature)
        return _prefetch(dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True))

    def _indices(self, first_step: int, last_step: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        epoch = -1
        for step in range(first_step, last_step):
            if step // self.steps != epoch:
                epoch = step // self.steps
                order = np.random.default_rng((self._variety.seed, epoch)).permutation(len(self._labels))
            start = step % self.steps * self._batch
            yield order[start : start + self._batch], step


class StreamFeed:
    """From shards: files in a new order each epoch, shuffled in a window, decoded in parallel."""

    def __init__(self, files: Sequence[str], num_images: int, shape: Shape, variety: Variety) -> None:
        self._files, self._shape, self._variety = list(files), shape, variety
        self._batch = min(variety.batch_size, num_images)
        self.steps = max(1, num_images // self._batch)

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        import tensorflow as tf

        epoch, step = divmod(first_step, self.steps)
        kept = self.steps * self._batch
        records = self._records(epoch).take(kept)
        for number in range(epoch + 1, -(-last_step // self.steps)):
            records = records.concatenate(self._records(number).take(kept))
        pictures = records.skip(step * self._batch).map(
            lambda record: _parse(record, self._shape), num_parallel_calls=tf.data.AUTOTUNE
        )
        numbered = tf.data.Dataset.zip(
            pictures.batch(self._batch, drop_remainder=True), tf.data.Dataset.range(first_step, last_step)
        )
        return _prefetch(
            numbered.map(
                lambda batch, number: _vary(batch[0], batch[1], number, self._variety),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        )

    def _records(self, epoch: int) -> tf.data.Dataset:
        import tensorflow as tf

        seeds = np.random.default_rng((self._variety.seed, epoch))
        files = tf.data.Dataset.from_tensor_slices(list(seeds.permutation(self._files)))
        lines = files.interleave(tf.data.TFRecordDataset, cycle_length=4, block_length=16)
        seed = int(seeds.integers(1, 1 << 31))
        return lines.shuffle(_SHUFFLED, seed=seed, reshuffle_each_iteration=False)


def read(
    folder: Path, part: Part, shape: Shape, *, limit: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decoded pictures of a part, uint8 (N, H, W, C), and labels, int64 (N,), in the shards' order."""
    num_images = part.num_images if limit is None else min(limit, part.num_images)
    return read_all([([str(folder / name) for name in part.files], num_images)], shape)[0]


def read_all(
    wanted: Sequence[tuple[Sequence[str], int]], shape: Shape
) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Decoded pictures and labels of several lists of files, so many of each, in one pass."""
    import tensorflow as tf

    total = sum(num_images for _, num_images in wanted)
    pictures = np.empty((total, shape.height, shape.width, shape.channels), np.uint8)
    labels = np.empty((total,), np.int64)
    dataset = tf.data.TFRecordDataset([])
    for files, num_images in wanted:
        dataset = dataset.concatenate(tf.data.TFRecordDataset(list(files)).take(num_images))
    dataset = dataset.map(lambda record: _parse(record, shape), num_parallel_calls=tf.data.AUTOTUNE)
    done = 0
    for some_pictures, some_labels in dataset.batch(64).prefetch(2).as_numpy_iterator():
        pictures[done : done + len(some_labels)] = some_pictures
        labels[done : done + len(some_labels)] = some_labels
        done += len(some_labels)
    ends = np.cumsum([num_images for _, num_images in wanted])[:-1]
    return list(zip(np.split(pictures, ends), np.split(labels, ends), strict=True))


def _parse(record: Any, shape: Shape) -> tuple[tf.Tensor, tf.Tensor]:
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "label": tf.io.FixedLenFeature((), tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    picture = images.load(example["image"], shape.height, shape.width, shape.channels, shape.aspect)
    return picture, example["label"]


def _vary(pictures: Any, labels: Any, step: Any, variety: Variety) -> Any:
    import tensorflow as tf

    seed = tf.stack([tf.cast(variety.seed, tf.int64), step])
    targets = tf.one_hot(labels, variety.num_classes)
    varied, targets = variation.vary(pictures, targets, seed, variety.policy)
    if not variety.class_weights:
        return varied, targets
    return varied, targets, tf.linalg.matvec(targets, tf.constant(variety.class_weights, tf.float32))


def _prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options).prefetch(4)
