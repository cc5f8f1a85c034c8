"""Training batches: from memory if the decoded images fit, otherwise streamed from the shards.

The batch of a step depends only on the seed, the epoch and the step, so a resumed run gets the batches of an
uninterrupted one. A batch may be split into pieces, because it does not fit into memory or because several
devices share it: the pieces together contain the same images as the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pergola.components.training.input import augmentation_ops
from pergola.components.training.input.images import ImageShape, label_feature, mapped, parse

if TYPE_CHECKING:
    import tensorflow as tf

_SHUFFLE_BUFFER = 2048  # encoded images


@dataclass(frozen=True)
class BatchSplit:
    """How a batch is split into pieces, and which of them this worker computes."""

    accumulate: int = 1  # gradient accumulation steps per batch
    worker: int = 0
    workers: int = 1
    replicas: int = 1  # of each worker, which compute in parallel

    @property
    def pieces(self) -> int:
        """Per batch."""
        return self.accumulate * self.workers * self.replicas


@dataclass(frozen=True)
class FeedSettings:
    """How batches are sampled and augmented."""

    batch_size: int
    seed: int
    policy: Mapping[str, float]
    num_classes: int
    class_weights: tuple[float, ...] = ()  # empty: all classes weigh the same
    sample: bool = False  # whether all classes are drawn equally often
    split: BatchSplit = BatchSplit()


class Feed(Protocol):
    """Training batches: float32 (N, H, W, C) from 0 to 255, targets float32 (N, classes)[, weights (N,)]."""

    steps: int  # per epoch, each accumulation step counted

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        """The batches of steps `first_step` to `last_step` - 1, counted from the start of training."""
        ...


class MemoryFeed:
    """Batches from decoded images. Each epoch is a permutation without its last incomplete batch."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], settings: FeedSettings) -> None:
        self._images, self._labels, self._settings = images, labels, settings
        self._sizes = _Sizes.of(len(labels), settings)
        self.steps = self._sizes.steps

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        import tensorflow as tf

        images, labels = tf.constant(self._images), tf.constant(self._labels)
        settings = self._settings
        signature = (tf.TensorSpec((self._sizes.piece,), tf.int64), tf.TensorSpec((), tf.int64))

        def indices() -> Iterator[tuple[NDArray[np.int64], int]]:
            return self._indices(first_step, last_step)

        def make(index: Any, number: Any) -> Any:
            return _augment(tf.gather(images, index), tf.gather(labels, index), number, settings)

        dataset = tf.data.Dataset.from_generator(indices, output_signature=signature)
        return _prefetch(mapped(dataset, make))

    def _indices(self, first_step: int, last_step: int) -> Iterator[tuple[NDArray[np.int64], int]]:
        """The indices of the images in each piece, and the number of the piece over all workers."""
        piece, epoch = self._sizes.piece, -1
        for step in range(first_step, last_step):
            if step // self.steps != epoch:
                epoch = step // self.steps
                order = self._order(epoch)
            for number in self._sizes.numbers(step):
                start = (number - epoch * self._sizes.pieces) * piece
                yield order[start : start + piece], number

    def _order(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._settings.seed, epoch))
        if not self._settings.sample:
            return rng.permutation(len(self._labels))
        return balanced_order(self._labels, rng)


class StreamFeed:
    """Batches from shards: files in a new order each epoch, a shuffle buffer, parallel decoding.

    by_label: number of images in each class. Sampling classes equally often drops images of frequent ones.
    """

    def __init__(
        self, files: Sequence[str], by_label: Sequence[int], shape: ImageShape, settings: FeedSettings
    ) -> None:
        self._files, self._shape, self._settings = list(files), shape, settings
        self._by_label = by_label
        self._sizes = _Sizes.of(sum(by_label), settings)
        self.steps = self._sizes.steps

    def batches(self, first_step: int, last_step: int) -> tf.data.Dataset:
        import tensorflow as tf

        sizes, split = self._sizes, self._settings.split
        epoch, step = divmod(first_step, self.steps)
        num_kept = sizes.pieces * sizes.piece
        records = self._records(epoch).take(num_kept)
        for number in range(epoch + 1, -(-last_step // self.steps)):
            records = records.concatenate(self._records(number).take(num_kept))
        in_parallel = sizes.piece * split.replicas
        records = records.skip(step * split.workers * in_parallel)
        if split.workers > 1:
            together = records.batch(in_parallel, drop_remainder=True)
            records = together.shard(split.workers, split.worker).unbatch()
        images = mapped(records, lambda record: parse(record, self._shape))
        numbers = [number for step in range(first_step, last_step) for number in sizes.numbers(step)]
        numbered = tf.data.Dataset.zip(
            images.batch(sizes.piece, drop_remainder=True),
            tf.data.Dataset.from_tensor_slices(np.array(numbers, np.int64)),
        )
        return _prefetch(
            mapped(numbered, lambda batch, number: _augment(batch[0], batch[1], number, self._settings))
        )

    def _records(self, epoch: int) -> tf.data.Dataset:
        seeds = np.random.default_rng((self._settings.seed, epoch))
        if not self._settings.sample:
            return self._shuffled(seeds)
        passes = -(-sum(self._by_label) // max(1, self._kept_per_pass())) + 1
        records = self._undersampled(seeds)
        for _ in range(passes):
            records = records.concatenate(self._undersampled(seeds))
        return records

    def _kept_per_pass(self) -> int:
        """Expected number of images in a pass of `_undersampled`."""
        present = [count for count in self._by_label if count]
        return len(present) * min(present)

    def _shuffled(self, seeds: np.random.Generator) -> tf.data.Dataset:
        import tensorflow as tf

        files = tf.data.Dataset.from_tensor_slices(list(seeds.permutation(self._files)))
        lines = files.interleave(tf.data.TFRecordDataset, cycle_length=4, block_length=16)
        seed = int(seeds.integers(1, 1 << 31))
        return lines.shuffle(_SHUFFLE_BUFFER, seed=seed, reshuffle_each_iteration=False)

    def _undersampled(self, seeds: np.random.Generator) -> tf.data.Dataset:
        """One pass, with about as many images of each class as the rarest one has."""
        import tensorflow as tf

        rarest = min(count for count in self._by_label if count)
        keep_rates = tf.constant([rarest / max(1, count) for count in self._by_label], tf.float32)
        seed = int(seeds.integers(1, 1 << 31))

        @tf.autograph.experimental.do_not_convert
        def is_kept(number: Any, record: Any) -> Any:
            label = tf.io.parse_single_example(record, {"label": label_feature()})["label"]
            return tf.random.stateless_uniform((), (seed, number)) < tf.gather(keep_rates, label)

        return self._shuffled(seeds).enumerate().filter(is_kept).map(lambda number, record: record)


@dataclass(frozen=True)
class _Sizes:
    """How an epoch is divided."""

    piece: int  # images
    pieces: int  # per epoch, over all workers
    steps: int  # per epoch
    split: BatchSplit

    @classmethod
    def of(cls, num_images: int, settings: FeedSettings) -> _Sizes:
        batch = min(settings.batch_size, num_images)
        batches = max(1, num_images // batch)
        split = settings.split
        return cls(max(1, batch // split.pieces), batches * split.pieces, batches * split.accumulate, split)

    def numbers(self, step: int) -> range:
        """The pieces of this worker at a step, counted from the start of training over all workers."""
        first = (step * self.split.workers + self.split.worker) * self.split.replicas
        return range(first, first + self.split.replicas)


def balanced_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many indices as labels, with all classes equally often (to within one)."""
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    per_class = -(-len(labels) // len(classes))
    drawn = []
    for members in classes:
        passes = [rng.permutation(members) for _ in range(-(-per_class // len(members)))]
        drawn.append(np.concatenate(passes)[:per_class])
    return rng.permutation(np.stack(drawn, axis=1).reshape(-1)[: len(labels)])


def _augment(images: Any, labels: Any, number: Any, settings: FeedSettings) -> Any:
    import tensorflow as tf

    seed = tf.stack([tf.cast(settings.seed, tf.int64), number])
    targets = tf.one_hot(labels, settings.num_classes)
    augmented, targets = augmentation_ops.augment(images, targets, seed, settings.policy)
    if not settings.class_weights:
        return augmented, targets
    return augmented, targets, tf.linalg.matvec(targets, tf.constant(settings.class_weights, tf.float32))


def _prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options).prefetch(4)
