"""What a network is trained on: decoded images, or the files that they are streamed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pergola.components.artifacts.data import TRAIN, VALIDATION, Part, Shards
from pergola.components.artifacts.training import Augmentation
from pergola.components.errors import InputError
from pergola.components.training.input import feed
from pergola.components.training.models import architectures

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]

SAMPLE = "sample"  # draw each class equally often
WHOLE = feed.Cut()

_MEASURED = 2000  # images whose mean and deviation stand for all, where not all fit into memory
_UNEQUAL = 1.5  # times as many images in one class as in another


@dataclass(frozen=True)
class Material:
    """Training images, with the expanded ones where there are any, and the validation part."""

    files: tuple[str, ...]  # of the training part
    num_train: int
    by_label: tuple[int, ...]  # training images a class
    shape: feed.Shape
    decoded: Labelled | None  # all training images; None: there are too many
    validation: Labelled
    statistics: architectures.Statistics

    def feed(
        self, batch_size: int, seed: int, augmentation: Augmentation, balance: str, cut: feed.Cut = WHOLE
    ) -> feed.Feed:
        """Training batches."""
        variety = feed.Variety(
            batch_size,
            seed,
            augmentation.policy,
            len(self.by_label),
            class_weights(balance, self.by_label),
            balance == SAMPLE,
            cut,
        )
        if self.decoded:
            return feed.MemoryFeed(*self.decoded, variety)
        return feed.StreamFeed(self.files, self.by_label, self.shape, variety)


def load(
    shards_folder: Path,
    augmentation_folder: Path,
    shards: Shards,
    augmentation: Augmentation,
    shape: feed.Shape,
    memory_mb: int,
) -> Material:
    """Read the images, all of them where they fit into so many megabytes.

    Raises InputError when the training part is empty.
    """
    files, counts = _train_part(shards_folder, augmentation_folder, shards, augmentation.extra)
    num_train = sum(counts)
    if not num_train:
        raise InputError(f"{shards_folder} has no training images. Lower the other parts in [split].")
    fits = num_train * shape.num_bytes <= memory_mb * 1_000_000
    held_out = shards.parts.get(VALIDATION) or Part((), 0, {})
    train, validation = feed.read_all(
        [
            (files, num_train if fits else min(num_train, _MEASURED)),
            ([str(shards_folder / name) for name in held_out.files], held_out.num_images),
        ],
        shape,
    )
    statistics = architectures.measure(train[0])
    return Material(files, num_train, counts, shape, train if fits else None, validation, statistics)


def class_weights(balance: str, counts: Sequence[int]) -> tuple[float, ...]:
    """A weight a class, inverse to its number of images, 1 on average over images; () for none."""
    present = [count for count in counts if count]
    if balance in ("off", SAMPLE) or (balance == "auto" and max(present) < _UNEQUAL * min(present)):
        return ()
    share = sum(present) / len(present)
    return tuple(share / count if count else 1.0 for count in counts)


def _train_part(
    shards_folder: Path, extra_folder: Path, shards: Shards, extra: Part | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Files of the training part and its expanded shards, and their images a class."""
    part = shards.parts[TRAIN]
    files = [str(shards_folder / name) for name in part.files]
    counts = [part.by_label.get(name, 0) for name in shards.labels]
    if extra is not None:
        files += [str(extra_folder / name) for name in extra.files]
        counts = [
            count + extra.by_label.get(name, 0) for count, name in zip(counts, shards.labels, strict=True)
        ]
    return tuple(files), tuple(counts)
