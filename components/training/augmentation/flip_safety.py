"""Whether images may be mirrored: do mirrored ones still look like their own class?

A mirrored leaf is a leaf; a mirrored 2 is no 2, and a mirrored "turn left" is another class. So each
image's nearest neighbour among the others is looked up twice, as it is and mirrored, on small
thumbnails. Small and grey images (letters, digits, symbols) must be recognised almost as often
mirrored. Photographs of one class often share light and place, by which mirrored ones differ without
being of another class: they are refused only when two classes change places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = 16  # pixels a side
LEAST_KEPT = 0.75  # of the share found, over all images
LEAST_KEPT_OF_CLASS = 0.5
SWAPPED = 0.5  # of the images of a class look like one other class, and the reverse
LEAST_OF_CLASS = 8  # images of a class that are recognised, from which on the class is judged


@dataclass(frozen=True)
class Verdict:
    """Whether to mirror, and why, in one sentence."""

    is_safe: bool
    why: str


def judge(
    thumbnails: NDArray[np.uint8], labels: NDArray[np.int64], names: tuple[str, ...], *, photographs: bool
) -> Verdict:
    """What mirroring from left to right does to these images.

    thumbnails: uint8 (N, H, W, C).  labels: int64 (N,), index in names.
    """
    known = _unit(thumbnails)
    plain = labels[_neighbours(known, known)]
    mirrored = labels[_neighbours(_unit(thumbnails[:, :, ::-1]), known)]
    swapped = _swapped(plain, mirrored, labels, len(names))
    if swapped:
        left, right = (f"'{names[k]}'" for k in swapped)
        return Verdict(False, f"mirrored images of {left} look like {right}, and the reverse")
    if photographs:
        return Verdict(True, "they are photographs, and no two classes are mirror images of each other")
    return _judge_strictly(plain == labels, mirrored == labels, labels, names)


def _judge_strictly(
    plain: NDArray[np.bool_], mirrored: NDArray[np.bool_], labels: NDArray[np.int64], names: tuple[str, ...]
) -> Verdict:
    before, after = float(plain.mean()), float(mirrored.mean())
    chance = float((np.bincount(labels) / len(labels)).max())
    figures = f"by their nearest neighbour {before:.0%} are recognised, mirrored {after:.0%}"
    if before < 1.2 * chance:
        return Verdict(False, f"thumbnails tell too little to judge: {figures}")
    hurt = _hurt_classes(plain, mirrored, labels)
    if hurt or after < LEAST_KEPT * before:
        whose = "of " + ", ".join(f"'{names[k]}'" for k in hurt[:3]) + " " if hurt else ""
        return Verdict(False, f"mirrored images {whose}look like another class: {figures}")
    return Verdict(True, f"mirrored images look like their class: {figures}")


def _swapped(
    plain: NDArray[np.int64], mirrored: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> tuple[int, int] | None:
    """Two classes that are recognised as they are, and as each other when mirrored."""
    as_is, turned = _confusion(labels, plain, num_classes), _confusion(labels, mirrored, num_classes)
    known = np.diag(as_is) >= SWAPPED
    for one, other in zip(*np.nonzero(turned >= SWAPPED), strict=True):
        is_pair = one < other and turned[other, one] >= SWAPPED
        if is_pair and known[one] and known[other]:
            return int(one), int(other)
    return None


def _confusion(labels: NDArray[np.int64], found: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Share of the images of a class (row) that look like a class (column)."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, found), 1.0)
    return np.asarray(counts / np.maximum(1.0, counts.sum(1, keepdims=True)))


def _neighbours(queries: NDArray[np.float32], known: NDArray[np.float32]) -> NDArray[np.int64]:
    """The nearest of the others: an image is no neighbour of itself, nor of its mirror image."""
    likeness = queries @ known.T
    np.fill_diagonal(likeness, -np.inf)
    return np.asarray(likeness.argmax(1), np.int64)


def _unit(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)


def _hurt_classes(
    plain: NDArray[np.bool_], mirrored: NDArray[np.bool_], labels: NDArray[np.int64]
) -> list[int]:
    """Classes that are recognised less than half as often mirrored, the worst first."""
    kept = {}
    for label in np.unique(labels):
        own = labels == label
        if plain[own].sum() >= LEAST_OF_CLASS:
            kept[int(label)] = float(mirrored[own].sum() / plain[own].sum())
    return sorted((k for k, share in kept.items() if share < LEAST_KEPT_OF_CLASS), key=lambda k: kept[k])
