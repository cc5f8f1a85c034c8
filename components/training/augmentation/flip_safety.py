"""Whether horizontal flips are safe: do flipped images still look like their own class?

A flipped leaf is a leaf, but a flipped 2 is not a 2, and a flipped "turn left" sign is another class. So the
nearest neighbour of each image is found twice, for the original and for the flipped image, among small
thumbnails. Small and grey images (letters, digits, symbols) must be classified correctly almost as often when
flipped. Photographs of a class often share light and place, so flipped ones differ without belonging to
another class: for them flips are unsafe only if two classes swap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THUMBNAIL = 16  # side in pixels
MIN_KEPT = 0.75  # of the accuracy without flips, over all images
MIN_KEPT_OF_CLASS = 0.5  # the same for a single class
SWAPPED = 0.5  # share of the images of a class that look like one other class, and the reverse
MIN_IMAGES_OF_CLASS = 8  # correctly classified images from which on a class is checked


@dataclass(frozen=True)
class Verdict:
    """Whether horizontal flips are safe, and why, in one sentence."""

    is_safe: bool
    why: str


def check(
    thumbnails: NDArray[np.uint8], labels: NDArray[np.int64], names: tuple[str, ...], *, photographs: bool
) -> Verdict:
    """Whether horizontal flips are safe for these images.

    thumbnails: uint8 (N, H, W, C).  labels: int64 (N,), index in names.
    """
    vectors = _unit(thumbnails)
    plain = labels[_neighbours(vectors, vectors)]
    flipped = labels[_neighbours(_unit(thumbnails[:, :, ::-1]), vectors)]
    swapped = _swapped(plain, flipped, labels, len(names))
    if swapped:
        left, right = (f"'{names[k]}'" for k in swapped)
        return Verdict(False, f"flipped images of {left} look like {right}, and the reverse")
    if photographs:
        return Verdict(True, "the images are photographs, and no two classes are mirror images of each other")
    return _check_strictly(plain == labels, flipped == labels, labels, names)


def _check_strictly(
    plain: NDArray[np.bool_], flipped: NDArray[np.bool_], labels: NDArray[np.int64], names: tuple[str, ...]
) -> Verdict:
    before, after = float(plain.mean()), float(flipped.mean())
    chance = float((np.bincount(labels) / len(labels)).max())
    figures = f"nearest-neighbour accuracy is {before:.0%}, and {after:.0%} for flipped images"
    if before < 1.2 * chance:
        return Verdict(False, f"thumbnails are not informative enough: {figures}")
    affected = _affected_classes(plain, flipped, labels)
    if affected or after < MIN_KEPT * before:
        classes = "of " + ", ".join(f"'{names[k]}'" for k in affected[:3]) + " " if affected else ""
        return Verdict(False, f"flipped images {classes}look like another class: {figures}")
    return Verdict(True, f"flipped images look like their own class: {figures}")


def _swapped(
    plain: NDArray[np.int64], flipped: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int
) -> tuple[int, int] | None:
    """Two classes that are classified correctly, but as each other when flipped."""
    original, after = _confusion(labels, plain, num_classes), _confusion(labels, flipped, num_classes)
    is_known = np.diag(original) >= SWAPPED
    for one, other in zip(*np.nonzero(after >= SWAPPED), strict=True):
        is_pair = one < other and after[other, one] >= SWAPPED
        if is_pair and is_known[one] and is_known[other]:
            return int(one), int(other)
    return None


def _confusion(labels: NDArray[np.int64], found: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Share of the images of a class (row) that are classified as a class (column)."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, found), 1.0)
    return np.asarray(counts / np.maximum(1.0, counts.sum(1, keepdims=True)))


def _neighbours(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """The index of the nearest other image, int64 (N,): neither the image itself nor its own flip."""
    similarity = queries @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return np.asarray(similarity.argmax(1), np.int64)


def _unit(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)


def _affected_classes(
    plain: NDArray[np.bool_], flipped: NDArray[np.bool_], labels: NDArray[np.int64]
) -> list[int]:
    """Classes that are classified correctly less than half as often when flipped, the worst first."""
    kept = {}
    for label in np.unique(labels):
        own = labels == label
        if plain[own].sum() >= MIN_IMAGES_OF_CLASS:
            kept[int(label)] = float(flipped[own].sum() / plain[own].sum())
    return sorted((k for k, share in kept.items() if share < MIN_KEPT_OF_CLASS), key=lambda k: kept[k])
