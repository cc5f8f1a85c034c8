"""Batches for training: from memory where the decoded images fit, else streamed from the shards.

What comes at a step depends on the seed, the epoch and the step only, so a run that was killed goes
on with the very batches it would have seen. Where a batch is cut into pieces, because it does not fit into
memory or because several devices share it, the pieces together are the batch that it would have been whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pergola.components.artifacts.data import Part
from pergola.components.imaging import decode
from pergola.components.training.input import augmentation_ops

if TYPE_CHECKING:
    import tensorflow as tf

_SHUFFLED = 2048  # images, encoded, that a streaming shuffle chooses from


@dataclass(frozen=True)
class Shape:
    """What every image is brought to."""

    height: int  # pixels
    width: int
    channels: int
    aspect: str

    @property
    def num_bytes(self) -> int:
        """Of one decoded image."""
        return self.height * self.width * self.channels


@dataclass(frozen=True)
class Cut:
    """Into which pieces a batch is cut, and which of them this worker computes."""

    accumulate: int = 1  # steps that make one batch, whose gradients are added up
    worker: int = 0
    workers: int = 1
    replicas: int = 1  # of each worker, which compute side by side

    @property
    def pieces(self) -> int:
        """Of a whole batch."""
        return self.accumulate * self.workers * self.replicas


@dataclass(frozen=True)
class Variety:
    """How batches are drawn and varied."""

    batch_size: int
    seed: int
    policy: Mapping[str, float]
    num_classes: int
    class_weights: tuple[float, ...] = ()  # empty: every class counts the same
    sample: bool = False  # whether each class is drawn equally often
    cut: Cut = Cut()


class Feed(Protocol):
    """Training batches: float32 (N, H, W, C) from 0 to 255, targets float32 (N, classes)[, weights (N,)]."""

    steps: int  # an epoch: those of a batch that is cut are counted one by one

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        """Those of steps `first_step` to `last_step` - 1, counted from the start of training."""
        ...


class MemoryFeed:
    """From decoded images. Each epoch is a permutation, whose last incomplete batch is left out."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], variety: Variety) -> None:
        self._images, self._labels, self._variety = images, labels, variety
        self._sizes = _Sizes.of(len(labels), variety)
        self.steps = self._sizes.steps

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        import tensorflow as tf

        images, labels = tf.constant(self._images), tf.constant(self._labels)
        variety = self._variety
        signature = (tf.TensorSpec((self._sizes.piece,), tf.int64), tf.TensorSpec((), tf.int64))

        def indices() -> Iterator[tuple[NDArray[np.int64], int]]:
            return self._indices(first_step, last_step)

        def make(index: Any, number: Any) -> Any:
            return _vary(tf.gather(images, index), tf.gather(labels, index), number, variety)

        dataset = tf.data.Dataset.from_generator(indices, output_signature=signature)
        return _prefetch(dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True))

    def _indices(self, first_step: int, last_step: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Of the images of each piece, and the piece's number, counted over all workers."""
        piece, epoch = self._sizes.piece, -1
        for step in range(first_step, last_step):
            if step // self.steps != epoch:
                epoch = step // self.steps
                order = self._order(epoch)
            for number in self._sizes.numbers(step):
                start = (number - epoch * self._sizes.pieces) * piece
                yield order[start : start + piece], number

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._variety.seed, epoch))
        if not self._variety.sample:
            return rng.permutation(len(self._labels))
        return balanced_order(self._labels, rng)


class StreamFeed:
    """From shards: files in a new order each epoch, shuffled in a window, decoded in parallel.

    by_label: images a class, by which frequent classes are thinned out where classes are to be equal.
    """

    def __init__(self, files: Sequence[str], by_label: Sequence[int], shape: Shape, variety: Variety) -> None:
        self._files, self._shape, self._variety = list(files), shape, variety
        self._by_label = by_label
        self._sizes = _Sizes.of(sum(by_label), variety)
        self.steps = self._sizes.steps

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        import tensorflow as tf

        sizes, cut = self._sizes, self._variety.cut
        epoch, step = divmod(first_step, self.steps)
        kept = sizes.pieces * sizes.piece
        records = self._records(epoch).take(kept)
        for number in range(epoch + 1, -(-last_step // self.steps)):
            records = records.concatenate(self._records(number).take(kept))
        side_by_side = sizes.piece * cut.replicas
        records = records.skip(step * cut.workers * side_by_side)
        if cut.workers > 1:
            together = records.batch(side_by_side, drop_remainder=True)
            records = together.shard(cut.workers, cut.worker).unbatch()
        images = records.map(lambda record: _parse(record, self._shape), num_parallel_calls=tf.data.AUTOTUNE)
        numbers = [number for step in range(first_step, last_step) for number in sizes.numbers(step)]
        numbered = tf.data.Dataset.zip(
            images.batch(sizes.piece, drop_remainder=True),
            tf.data.Dataset.from_tensor_slices(np.array(numbers, np.int64)),
        )
        return _prefetch(
            numbered.map(
                lambda batch, number: _vary(batch[0], batch[1], number, self._variety),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
        )

    def _records(self, epoch: int) -> tf.data.Dataset:
        seeds = np.random.default_rng((self._variety.seed, epoch))
        if not self._variety.sample:
            return self._shuffled(seeds)
        passes = -(-sum(self._by_label) // max(1, self._kept_a_pass())) + 1
        records = self._thinned(seeds)
        for _ in range(passes):
            records = records.concatenate(self._thinned(seeds))
        return records

    def _kept_a_pass(self) -> int:
        """Images that are left of each pass, in the mean, when each class is as rare as the rarest."""
        present = [count for count in self._by_label if count]
        return len(present) * min(present)

    def _shuffled(self, seeds: np.random.Generator) -> tf.data.Dataset:
        import tensorflow as tf

        files = tf.data.Dataset.from_tensor_slices(list(seeds.permutation(self._files)))
        lines = files.interleave(tf.data.TFRecordDataset, cycle_length=4, block_length=16)
        seed = int(seeds.integers(1, 1 << 31))
        return lines.shuffle(_SHUFFLED, seed=seed, reshuffle_each_iteration=False)

    def _thinned(self, seeds: np.random.Generator) -> tf.data.Dataset:
        """A pass in which each class has about as many images as the rarest."""
        import tensorflow as tf

        rarest = min(count for count in self._by_label if count)
        shares = tf.constant([rarest / max(1, count) for count in self._by_label], tf.float32)
        seed = int(seeds.integers(1, 1 << 31))

        def is_kept(number: Any, record: Any) -> Any:
            label = tf.io.parse_single_example(record, {"label": _label_feature()})["label"]
            return tf.random.stateless_uniform((), (seed, number)) < tf.gather(shares, label)

        return self._shuffled(seeds).enumerate().filter(is_kept).map(lambda number, record: record)


@dataclass(frozen=True)
class _Sizes:
    """How an epoch is cut."""

    piece: int  # images
    pieces: int  # an epoch, over all workers
    steps: int  # an epoch
    cut: Cut

    @classmethod
    def of(cls, num_images: int, variety: Variety) -> _Sizes:
        batch = min(variety.batch_size, num_images)
        batches = max(1, num_images // batch)
        cut = variety.cut
        return cls(max(1, batch // cut.pieces), batches * cut.pieces, batches * cut.accumulate, cut)

    def numbers(self, step: int) -> range:
        """The pieces, counted from the start of training over all workers, that are this one's at a step."""
        first = (step * self.cut.workers + self.cut.worker) * self.cut.replicas
        return range(first, first + self.cut.replicas)


def balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many indices as there are labels, in which each class occurs equally often, to one."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    each = -(-len(labels) // len(classes))
    drawn = []
    for members in classes:
        passes = [rng.permutation(members) for _ in range(-(-each // len(members)))]
        drawn.append(np.concatenate(passes)[:each])
    return rng.permutation(np.stack(drawn, axis=1).reshape(-1)[: len(labels)])


def read(
    folder: Path, part: Part, shape: Shape, *, limit: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decoded images of a part, uint8 (N, H, W, C), and labels, int64 (N,), in the shards' order."""
    num_images = part.num_images if limit is None else min(limit, part.num_images)
    return read_all([([str(folder / name) for name in part.files], num_images)], shape)[0]


def read_all(
    wanted: Sequence[tuple[Sequence[str], int]], shape: Shape
) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Decoded images and labels of several lists of files, so many of each, in one pass."""
    import tensorflow as tf

    total = sum(num_images for _, num_images in wanted)
    images = np.empty((total, shape.height, shape.width, shape.channels), np.uint8)
    labels = np.empty((total,), np.int64)
    dataset = tf.data.TFRecordDataset([])
    for files, num_images in wanted:
        dataset = dataset.concatenate(tf.data.TFRecordDataset(list(files)).take(num_images))
    dataset = dataset.map(lambda record: _parse(record, shape), num_parallel_calls=tf.data.AUTOTUNE)
    done = 0
    for some_images, some_labels in dataset.batch(64).prefetch(2).as_numpy_iterator():
        images[done : done + len(some_labels)] = some_images
        labels[done : done + len(some_labels)] = some_labels
        done += len(some_labels)
    ends = np.cumsum([num_images for _, num_images in wanted])[:-1]
    return list(zip(np.split(images, ends), np.split(labels, ends), strict=True))


def _parse(record: Any, shape: Shape) -> tuple[tf.Tensor, tf.Tensor]:
    import tensorflow as tf

    features = {"image": tf.io.FixedLenFeature((), tf.string), "label": _label_feature()}
    example = tf.io.parse_single_example(record, features)
    image = decode.load(example["image"], shape.height, shape.width, shape.channels, shape.aspect)
    return image, example["label"]


def _label_feature() -> Any:
    import tensorflow as tf

    return tf.io.FixedLenFeature((), tf.int64)


def _vary(images: Any, labels: Any, number: Any, variety: Variety) -> Any:
    import tensorflow as tf

    seed = tf.stack([tf.cast(variety.seed, tf.int64), number])
    targets = tf.one_hot(labels, variety.num_classes)
    varied, targets = augmentation_ops.vary(images, targets, seed, variety.policy)
    if not variety.class_weights:
        return varied, targets
    return varied, targets, tf.linalg.matvec(targets, tf.constant(variety.class_weights, tf.float32))


def _prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options).prefetch(4)
