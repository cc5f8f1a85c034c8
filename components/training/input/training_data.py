"""The data of a training: decoded images, or the files from which they are streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pergola.components.artifacts.data import TRAIN, VALIDATION, Shards, SplitShards
from pergola.components.artifacts.training import Augmentation
from pergola.components.errors import InputError
from pergola.components.training.input import feed
from pergola.components.training.input.images import ImageShape, LabelledImages, read_sources
from pergola.components.training.models.statistics import Statistics, measure

SAMPLE = "sample"  # draw all classes equally often
WHOLE = feed.BatchSplit()

_NUM_MEASURED = 2000  # images that statistics are computed from if not all fit into memory
_IMBALANCED = 1.5  # times as many images in one class as in another


@dataclass(frozen=True)
class TrainingData:
    """Training images, with those of offline augmentation if there are any, and the validation split."""

    files: tuple[str, ...]  # of the training split
    num_train: int
    by_label: tuple[int, ...]  # training images in each class
    shape: ImageShape
    decoded: LabelledImages | None  # all training images; None: they do not fit into memory
    validation: LabelledImages
    statistics: Statistics

    def feed(
        self,
        batch_size: int,
        seed: int,
        augmentation: Augmentation,
        balance: str,
        split: feed.BatchSplit = WHOLE,
    ) -> feed.Feed:
        """Training batches."""
        settings = feed.FeedSettings(
            batch_size,
            seed,
            augmentation.policy,
            len(self.by_label),
            class_weights(balance, self.by_label),
            balance == SAMPLE,
            split,
        )
        if self.decoded:
            return feed.MemoryFeed(*self.decoded, settings)
        return feed.StreamFeed(self.files, self.by_label, self.shape, settings)


def load(
    shards_folder: Path,
    augmentation_folder: Path,
    shards: Shards,
    augmentation: Augmentation,
    shape: ImageShape,
    memory_mb: int,
) -> TrainingData:
    """Read the images: all of them if they fit into `memory_mb`, otherwise a sample.

    Raises InputError when the training split is empty.
    """
    files, counts = _train_files(shards_folder, augmentation_folder, shards, augmentation.extra)
    num_train = sum(counts)
    if not num_train:
        raise InputError(f"{shards_folder} has no training images. Reduce the other splits in [split].")
    fits = num_train * shape.num_bytes <= memory_mb * 1_000_000
    held_out = shards.splits.get(VALIDATION) or SplitShards((), 0, {})
    train, validation = read_sources(
        [
            (files, num_train if fits else min(num_train, _NUM_MEASURED)),
            ([str(shards_folder / name) for name in held_out.files], held_out.num_images),
        ],
        shape,
    )
    statistics = measure(train[0])
    return TrainingData(files, num_train, counts, shape, train if fits else None, validation, statistics)


def class_weights(balance: str, counts: Sequence[int]) -> tuple[float, ...]:
    """A weight for each class, inversely proportional to its images, with mean 1 over images; () for none."""
    present = [count for count in counts if count]
    if balance in ("off", SAMPLE) or (balance == "auto" and max(present) < _IMBALANCED * min(present)):
        return ()
    share = sum(present) / len(present)
    return tuple(share / count if count else 1.0 for count in counts)


def _train_files(
    shards_folder: Path, extra_folder: Path, shards: Shards, extra: SplitShards | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Files of the training split and of offline augmentation, and their number of images in each class."""
    split = shards.splits[TRAIN]
    files = [str(shards_folder / name) for name in split.files]
    counts = [split.by_label.get(name, 0) for name in shards.labels]
    if extra is not None:
        files += [str(extra_folder / name) for name in extra.files]
        counts = [
            count + extra.by_label.get(name, 0) for count, name in zip(counts, shards.labels, strict=True)
        ]
    return tuple(files), tuple(counts)
