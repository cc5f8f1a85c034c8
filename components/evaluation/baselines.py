"""What a model must be better than: answers that need no network.

majority            the most frequent class, whatever the image
metadata            five nearest training images by size, bytes, format, brightness and contrast alone: when
                    this is good, the classes differ in how they were photographed, not in what they show
nearest_neighbour   the most alike training image, as a thumbnail of 16 x 16 pixels
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.evaluation import Paired
from pergola.components.data.shard_reader import ShardImage
from pergola.components.stats.compare import compare

SIDE_PX = 16
NEIGHBOURS = 5

MAJORITY, METADATA, NEAREST = "majority", "metadata", "nearest_neighbour"

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Looks:
    """What baselines see of N images, ordered by id."""

    ids: tuple[str, ...]
    labels: Ints  # (N,)
    metadata: Floats  # (N, 5): ln width, ln height, ln bytes, mean and deviation of luma
    formats: tuple[str, ...]
    thumbnails: Floats  # (N, 3 * SIDE_PX ** 2), 0 to 1


def looks(found: Iterable[ShardImage]) -> Looks:
    """Look at images, one at a time. Those that Pillow cannot read are passed over."""
    rows = sorted(
        ((picture.id, picture.label, *seen) for picture in found if (seen := _look(picture.image))),
        key=lambda row: row[0],
    )
    return Looks(
        ids=tuple(row[0] for row in rows),
        labels=np.array([row[1] for row in rows], np.int64),
        metadata=np.array([row[2] for row in rows], np.float32).reshape(len(rows), 5),
        formats=tuple(row[3] for row in rows),
        thumbnails=np.array([row[4] for row in rows], np.float32).reshape(len(rows), -1),
    )


def majority(answers: Bools, labels: Ints) -> Paired:
    """The model beside the class that is most frequent among `labels`. answers: what it got right, (N,)."""
    return paired(MAJORITY, answers, labels == np.bincount(labels).argmax())


def learned(answers: Bools, train: Looks, test: Looks) -> tuple[Paired, ...]:
    """The model beside both baselines that look at training images; none without such images.

    answers: what the model got right of the images of `test`, in their order.
    """
    if not len(train.ids) or not len(test.ids):
        return ()
    by_metadata = _vote(_scaled(train, train), _scaled(test, train), train.labels, NEIGHBOURS)
    by_thumbnail = _vote(train.thumbnails, test.thumbnails, train.labels, 1)
    return (
        paired(METADATA, answers, by_metadata == test.labels),
        paired(NEAREST, answers, by_thumbnail == test.labels),
    )


def paired(name: str, answers: Bools, other: Bools) -> Paired:
    """The model beside another, by what each got right; difference: model - other."""
    pair = compare(answers, other)
    return Paired(name, len(answers), float(other.mean()), pair.difference, pair.interval, pair.p_value)


def _look(image: bytes) -> tuple[list[float], str, Floats] | None:
    from PIL.Image import Resampling

    from pergola.serving.wire import images

    try:
        with images.opened(image) as opened, images.decoding("it"):
            kind, (width, height) = opened.format or "", opened.size
            opened.draft("RGB", (4 * SIDE_PX, 4 * SIDE_PX))
            small = opened.convert("RGB").resize((SIDE_PX, SIDE_PX), Resampling.BOX)
    except ValueError:
        return None
    pixels: Floats = (np.asarray(small) / 255).astype(np.float32)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    figures = [math.log(width), math.log(height), math.log(len(image)), float(luma.mean()), float(luma.std())]
    return figures, kind, pixels.ravel()


def _scaled(some: Looks, reference: Looks) -> Floats:
    """Metadata with the reference's mean 0 and deviation 1, then a column a format."""
    centre, scale = reference.metadata.mean(axis=0), reference.metadata.std(axis=0)
    columns = (some.metadata - centre) / np.where(scale > 1e-6, scale, 1)
    kinds = sorted(set(reference.formats))
    flags = np.array([[2.0 * (kind == known) for known in kinds] for kind in some.formats], np.float32)
    return np.concatenate([columns, flags], axis=1).astype(np.float32)


def _vote(train: Floats, test: Floats, labels: Ints, neighbours: int, chunk: int = 512) -> Ints:
    """The most frequent label of the nearest rows; the nearest one's among the most frequent."""
    answers = np.empty(len(test), np.int64)
    norms = (train**2).sum(axis=1)
    for start in range(0, len(test), chunk):
        part = test[start : start + chunk]
        distance = norms[None, :] - 2 * part @ train.T
        order = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]
        for row, near in enumerate(labels[order]):
            counts = np.bincount(near)
            winners = np.flatnonzero(counts == counts.max())
            answers[start + row] = next(label for label in near if label in winners)
    return answers
