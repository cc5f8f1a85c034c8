"""Baselines that a model must beat. None of them needs a neural network.

majority            the most frequent class, whatever the image
metadata            five nearest training images by size, bytes, format, brightness and contrast alone: if
                    this is accurate, the classes differ in how they were photographed, not in what they show
nearest_neighbour   the nearest training image, as a thumbnail of 16 x 16 pixels
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
class BaselineFeatures:
    """The features of N images, ordered by id."""

    ids: tuple[str, ...]
    labels: Ints  # (N,)
    metadata: Floats  # (N, 5): ln width, ln height, ln bytes, mean and deviation of luma
    formats: tuple[str, ...]
    thumbnails: Floats  # (N, 3 * SIDE_PX ** 2), 0 to 1


def extract_features(images: Iterable[ShardImage]) -> BaselineFeatures:
    """The features of images, read one at a time. Images that Pillow cannot read are skipped."""
    rows = sorted(
        ((image.id, image.label, *found) for image in images if (found := _features(image.image))),
        key=lambda row: row[0],
    )
    return BaselineFeatures(
        ids=tuple(row[0] for row in rows),
        labels=np.array([row[1] for row in rows], np.int64),
        metadata=np.array([row[2] for row in rows], np.float32).reshape(len(rows), 5),
        formats=tuple(row[3] for row in rows),
        thumbnails=np.array([row[4] for row in rows], np.float32).reshape(len(rows), -1),
    )


def majority(answers: Bools, labels: Ints) -> Paired:
    """The model compared with the most frequent class of `labels`.  answers: whether it was correct, (N,)."""
    return paired(MAJORITY, answers, labels == np.bincount(labels).argmax())


def learned(answers: Bools, train: BaselineFeatures, test: BaselineFeatures) -> tuple[Paired, ...]:
    """The model compared with both baselines that use training images; empty without such images.

    answers: whether the model was correct on each image of `test`.
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
    """The model compared with another predictor, by whether each was correct; difference: model - other."""
    pair = compare(answers, other)
    return Paired(name, len(answers), float(other.mean()), pair.difference, pair.interval, pair.p_value)


def _features(image: bytes) -> tuple[list[float], str, Floats] | None:
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


def _scaled(some: BaselineFeatures, reference: BaselineFeatures) -> Floats:
    """Metadata standardised by the reference's mean and deviation, then one column per format."""
    centre, scale = reference.metadata.mean(axis=0), reference.metadata.std(axis=0)
    columns = (some.metadata - centre) / np.where(scale > 1e-6, scale, 1)
    kinds = sorted(set(reference.formats))
    flags = np.array([[2.0 * (kind == known) for known in kinds] for kind in some.formats], np.float32)
    return np.concatenate([columns, flags], axis=1).astype(np.float32)


def _vote(train: Floats, test: Floats, labels: Ints, neighbours: int, chunk: int = 512) -> Ints:
    """The most frequent label of the nearest rows; of equally frequent ones the nearest."""
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
