"""Crops: images that are a part of another one, maybe resized and re-encoded.

Their thumbnails differ from that of the whole image, so near-duplicate detection does not find them. Here
keypoints with similar patches are found by a k-d tree, so that not all pairs of images are compared. Two
images whose matching keypoints agree on one scale and shift are laid upon each other, and are a crop when the
area that they share looks the same. `window_matching` adds crops that keep most of an image, which may have
few keypoints. Rotated and mirrored crops are not looked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.imaging.keypoints import STORED_SIDE, Keypoints
from pergola.components.imaging.window_matching import SQUARE, window_pairs

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

_OVERLAY = 48  # pixels per side at which two images are compared
_DIRECTIONS = 12  # principal directions in which patches are compared first
_MAX_PATCH_DISTANCE = 0.30  # of matching patches, which have length 1
_NEIGHBOURS = 6
_TOLERANCE_PX = 2.5  # how far keypoints may be from where scale and shift put them
_MIN_AGREEING = 3  # keypoints
_MIN_SCALE = 0.3  # share of an image's sides that a crop of it keeps at least
_MIN_OVERLAP = 0.85  # share of the smaller image that both must show
_MAX_MATCHES = 40  # per pair of images, from which scale and shift are computed
_MAX_TRIED = 4  # transforms that are tried per pair
_MAX_DISTANCE = 0.13  # of the shared areas, shifted to mean 0 and scaled to length 1


def crop_pairs(keypoints: Keypoints) -> Ints:
    """Pairs of which one is a part of the other: int64 (M, 2), smaller index first, most similar first."""
    pairs, distances = window_pairs(_squares(keypoints))
    found = dict(zip(map(tuple, pairs.tolist()), distances.tolist(), strict=True))
    for pair, matches in _matching_images(keypoints):
        if pair not in found and (distance := _distance(keypoints, pair, matches)) <= _MAX_DISTANCE:
            found[pair] = distance
    return np.array(sorted(found, key=lambda pair: (found[pair], pair)), np.int64).reshape(-1, 2)


def _squares(keypoints: Keypoints) -> npt.NDArray[np.uint8]:
    """The grey images without their margins, squeezed to squares: uint8 (N, SQUARE, SQUARE)."""
    squares = np.zeros((len(keypoints.luma), SQUARE, SQUARE), np.uint8)
    for square, luma, (height, width) in zip(squares, keypoints.luma, keypoints.sizes / 2, strict=True):
        if height:
            box = (0.0, 0.0, float(int(width)), float(int(height)))
            grey = Image.fromarray(luma).resize((SQUARE, SQUARE), Image.Resampling.BILINEAR, box)
            square[:] = np.asarray(grey)
    return squares


def _matching_images(keypoints: Keypoints) -> Iterator[tuple[tuple[int, int], Ints]]:
    """Pairs of images with enough matching keypoints, and the matches: int (m, 2), keypoints of either."""
    from scipy.spatial import cKDTree

    known = np.argwhere(np.isfinite(keypoints.positions[:, :, 0]))
    if len(known) < 2:
        return
    patches = keypoints.patches[known[:, 0], known[:, 1]].astype(np.float32)
    _, vectors = np.linalg.eigh((patches.T @ patches).astype(np.float64))
    small = patches @ vectors[:, -_DIRECTIONS:].astype(np.float32)
    distances, near = cKDTree(small).query(
        small, k=min(_NEIGHBOURS + 1, len(known)), distance_upper_bound=_MAX_PATCH_DISTANCE, workers=-1
    )
    row, column = np.nonzero(np.isfinite(distances))
    first, second = known[row], known[near[row, column]]
    in_order = first[:, 0] < second[:, 0]
    matches: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    reversed = first[:, 0] > second[:, 0]
    for a, b in (
        *zip(first[in_order], second[in_order], strict=True),
        *zip(second[reversed], first[reversed], strict=True),
    ):
        matches[int(a[0]), int(b[0])].append((int(a[1]), int(b[1])))
    for pair, found in matches.items():
        unique = np.unique(np.array(found), axis=0)
        if len(unique) >= _MIN_AGREEING:
            yield pair, unique


def _distance(keypoints: Keypoints, pair: tuple[int, int], matches: Ints) -> float:
    """The distance of two images where their matching keypoints coincide; inf when they do nowhere."""
    a, b = pair
    found = [np.inf]
    for scale, shift in _transforms(
        keypoints.positions[a, matches[:, 0]], keypoints.positions[b, matches[:, 1]]
    ):
        box = _shared(scale, shift, keypoints.sizes[a], keypoints.sizes[b])
        if box is not None:
            first, second = _window(keypoints.luma[a], box), _window(keypoints.luma[b], scale * box + shift)
            found.append(float(np.linalg.norm(_unit(first) - _unit(second))))
    return min(found)


def _transforms(first: Floats, second: Floats) -> Iterator[tuple[float, Floats]]:
    """Scales and shifts with second = scale * first + shift for many keypoints, the best supported first."""
    i, j = np.triu_indices(min(len(first), _MAX_MATCHES), 1)
    apart = np.linalg.norm(first[i] - first[j], axis=1)
    far = apart >= 4 * _TOLERANCE_PX
    i, j, apart = i[far], j[far], apart[far]
    scales = np.linalg.norm(second[i] - second[j], axis=1) / apart
    shifts = (second[i] + second[j] - scales[:, None] * (first[i] + first[j])) / 2
    off = scales[:, None, None] * first + shifts[:, None] - second
    agree = (off**2).sum(axis=2) <= _TOLERANCE_PX**2
    counts = agree.sum(axis=1)
    tried: list[npt.NDArray[np.bool_]] = []
    for place in np.argsort(-counts, kind="stable"):
        if counts[place] < _MIN_AGREEING or len(tried) == _MAX_TRIED:
            return
        inliers = agree[place]
        if any((inliers <= before).all() for before in tried):
            continue
        tried.append(inliers)
        yield _fitted(first[inliers], second[inliers])


def _fitted(first: Floats, second: Floats) -> tuple[float, Floats]:
    """The least-squares scale and shift."""
    inside, target = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = float((inside * target).sum()) / max(float((inside**2).sum()), 1e-9)
    return scale, second.mean(axis=0) - scale * first.mean(axis=0)


def _shared(scale: float, shift: Floats, size_a: Floats, size_b: Floats) -> Floats | None:
    """The area that both show, ((top, left), (bottom, right)) in the first; None when it is too small."""
    if not _MIN_SCALE <= scale <= 1 / _MIN_SCALE:
        return None
    low, high = np.maximum(0.0, -shift / scale), np.minimum(size_a, (size_b - shift) / scale)
    area = float(np.prod(np.maximum(high - low, 0.0)))
    smaller = min(float(np.prod(size_a)), float(np.prod(size_b)) / scale**2)
    return np.stack([low, high]) if area >= _MIN_OVERLAP * smaller else None


def _window(luma: npt.NDArray[np.uint8], box: Floats) -> Floats:
    (top, left), (bottom, right) = (box / 2).tolist()
    window = Image.fromarray(luma).resize(
        (_OVERLAY, _OVERLAY), Image.Resampling.BILINEAR,
        (max(0.0, left), max(0.0, top), min(STORED_SIDE, right), min(STORED_SIDE, bottom)),
    )  # fmt: skip
    return np.asarray(window, np.float32)


def _unit(pixels: Floats) -> Floats:
    flat = pixels - pixels.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6))
