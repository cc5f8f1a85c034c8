"""Images that are a part of another one: cropped, and maybe resized and written again.

Their thumbnails differ from that of the whole, so components/data/checks/duplicates.py does not see them.
Here each image has its most striking points, found at several scales as extremes of differences of
Gaussians (Lowe 2004), each with a small patch around it. Points with like patches are found by a k-d tree,
so not all pairs are compared; two images whose like points agree on one scale and shift are laid upon each
other, and are called a crop when what they share looks the same. components/data/checks/crop_matching.py
adds those that keep most of an image, which may have few points. Turned or mirrored crops are not looked
for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.data.checks.crop_matching import SQUARE, window_pairs

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Row = tuple[Floats, Floats, Floats, npt.NDArray[np.uint8]]

SIDE = 128  # pixels of the longer side in which points are looked for
SMALL = 64  # pixels of the shorter side below which an image is not looked at
POINTS = 32  # an image
PATCH = 12  # samples of a patch's side
KEPT = SIDE // 2  # pixels a side of the grey image that is kept for the overlay
OVERLAY = 48  # pixels a side in which two images are compared

_SIGMAS = 1.6 * 2 ** (np.arange(8) / 3)
_DIRECTIONS = 12  # of patches, in which they are compared first
_NEAR = 0.30  # distance of like patches of length 1
_NEIGHBOURS = 6
_AGREE_PX = 2.5  # how far points may lie from where scale and shift put them
_LEAST_AGREEING = 3  # points
_LEAST_SHARE = 0.3  # of an image's sides, that a crop of it keeps
_MOST_MATCHES = 40  # of a pair of images, by which scale and shift are found
_MOST_TRIED = 4  # scales and shifts of a pair that are tried
_SAME = 0.13  # distance of what is shared, shifted to mean 0 and scaled to length 1


@dataclass(frozen=True)
class Points:
    """The striking points of N images, K an image, and their grey images.

    places: float32 (N, K, 2), down and across in pixels of the image at SIDE; nan where there are fewer.
    patches: float16 (N, K, PATCH * PATCH), mean 0, length 1.  sizes: float32 (N, 2), height and width.
    luma: uint8 (N, KEPT, KEPT), the image half as large, in the upper left corner.
    """

    places: Floats
    patches: Floats
    sizes: Floats
    luma: npt.NDArray[np.uint8]

    @staticmethod
    def of(rows: Sequence[Row]) -> Points:
        """From rows of `points_of`."""
        if not rows:
            nothing = np.zeros((0, POINTS, 2), np.float32), np.zeros((0, POINTS, PATCH * PATCH), np.float16)
            return Points(*nothing, np.zeros((0, 2), np.float32), np.zeros((0, KEPT, KEPT), np.uint8))
        return Points(*(np.stack(column) for column in zip(*rows, strict=True)))


def points_of(image: Image.Image) -> Row:
    """A row of Points: places, patches, size, luma."""

    places = np.full((POINTS, 2), np.nan, np.float32)
    patches = np.zeros((POINTS, PATCH * PATCH), np.float16)
    luma = np.zeros((KEPT, KEPT), np.uint8)
    if min(image.size) < SMALL:
        return places, patches, np.zeros(2, np.float32), luma
    scale = SIDE / max(image.size)
    width, height = (max(8, round(side * scale)) for side in image.size)
    grey = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX))
    half = np.asarray(Image.fromarray(grey).reduce(2))
    luma[: half.shape[0], : half.shape[1]] = half
    smooth = _smoothed(grey.astype(np.float32))
    found = _extremes(np.abs(np.diff(smooth, axis=0)))
    places[: len(found)] = found[:, 1:]
    patches[: len(found)] = _patches(smooth, found)
    return places, patches, np.array(grey.shape, np.float32), luma


def crop_pairs(points: Points) -> Ints:
    """Pairs of which one is a part of the other, int64 (M, 2), smaller index first; the most alike first."""
    pairs, distances = window_pairs(_squares(points))
    found = dict(zip(map(tuple, pairs.tolist()), distances.tolist(), strict=True))
    for pair, matches in _likes(points):
        if pair not in found and (distance := _distance(points, pair, matches)) <= _SAME:
            found[pair] = distance
    return np.array(sorted(found, key=lambda pair: (found[pair], pair)), np.int64).reshape(-1, 2)


def _squares(points: Points) -> npt.NDArray[np.uint8]:
    """The grey images without their margins, uint8 (N, SQUARE, SQUARE)."""
    squares = np.zeros((len(points.luma), SQUARE, SQUARE), np.uint8)
    for square, luma, (height, width) in zip(squares, points.luma, points.sizes / 2, strict=True):
        if height:
            box = (0.0, 0.0, float(int(width)), float(int(height)))
            grey = Image.fromarray(luma).resize((SQUARE, SQUARE), Image.Resampling.BILINEAR, box)
            square[:] = np.asarray(grey)
    return squares


def _smoothed(grey: Floats) -> Floats:
    """The image under Gaussians of _SIGMAS, float32 (levels, H, W), each from the one before."""
    from scipy import ndimage

    levels, before = [], 0.0
    for sigma in _SIGMAS:
        grey = ndimage.gaussian_filter(grey, np.sqrt(sigma**2 - before**2), truncate=2.5, mode="nearest")
        levels.append(grey)
        before = float(sigma)
    return np.stack(levels)


def _extremes(strength: Floats) -> Ints:
    """The strongest local extremes, int (k, 3): level, down, across."""
    from scipy import ndimage

    peak = (strength == ndimage.maximum_filter(strength, size=3)) & (strength > 0.5)
    peak[[0, -1]] = False
    candidates = np.argwhere(peak)
    order = np.argsort(-strength[tuple(candidates.T)], kind="stable")[:POINTS]
    return np.asarray(candidates[order])


def _patches(smooth: Floats, found: Ints) -> Floats:
    """Patches whose extent grows with the scale of their point, float32 (k, PATCH * PATCH)."""
    from scipy import ndimage

    grid = np.arange(PATCH) - (PATCH - 1) / 2
    steps = _SIGMAS[found[:, 0], None]
    down = (found[:, 1, None] + steps * grid)[:, :, None]
    across = (found[:, 2, None] + steps * grid)[:, None, :]
    rows = np.zeros((len(found), PATCH * PATCH), np.float32)
    for level in np.unique(found[:, 0]):
        some = found[:, 0] == level
        at = np.broadcast_arrays(down[some], across[some])
        values = ndimage.map_coordinates(smooth[level], at, order=1, mode="nearest")
        rows[some] = values.reshape(-1, PATCH * PATCH)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


def _likes(points: Points) -> Iterator[tuple[tuple[int, int], Ints]]:
    """Pairs of images with enough like points, and those: int (m, 2), places in each one's row."""
    from scipy.spatial import cKDTree

    known = np.argwhere(np.isfinite(points.places[:, :, 0]))
    if len(known) < 2:
        return
    patches = points.patches[known[:, 0], known[:, 1]].astype(np.float32)
    _, vectors = np.linalg.eigh((patches.T @ patches).astype(np.float64))
    small = patches @ vectors[:, -_DIRECTIONS:].astype(np.float32)
    distances, near = cKDTree(small).query(
        small, k=min(_NEIGHBOURS + 1, len(known)), distance_upper_bound=_NEAR, workers=-1
    )
    row, column = np.nonzero(np.isfinite(distances))
    first, second = known[row], known[near[row, column]]
    other = first[:, 0] < second[:, 0]
    matches: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    turned = first[:, 0] > second[:, 0]
    for a, b in (
        *zip(first[other], second[other], strict=True),
        *zip(second[turned], first[turned], strict=True),
    ):
        matches[int(a[0]), int(b[0])].append((int(a[1]), int(b[1])))
    for pair, found in matches.items():
        distinct = np.unique(np.array(found), axis=0)
        if len(distinct) >= _LEAST_AGREEING:
            yield pair, distinct


def _distance(points: Points, pair: tuple[int, int], matches: Ints) -> float:
    """How unlike two images are where like points lay one upon the other; inf: nowhere."""
    a, b = pair
    found = [np.inf]
    for scale, shift in _transforms(points.places[a, matches[:, 0]], points.places[b, matches[:, 1]]):
        box = _shared(scale, shift, points.sizes[a], points.sizes[b])
        if box is not None:
            first, second = _window(points.luma[a], box), _window(points.luma[b], scale * box + shift)
            found.append(float(np.linalg.norm(_unit(first) - _unit(second))))
    return min(found)


def _transforms(first: Floats, second: Floats) -> Iterator[tuple[float, Floats]]:
    """Scales and shifts with second = scale * first + shift for many of the points, the most first."""
    i, j = np.triu_indices(min(len(first), _MOST_MATCHES), 1)
    apart = np.linalg.norm(first[i] - first[j], axis=1)
    far = apart >= 4 * _AGREE_PX
    i, j, apart = i[far], j[far], apart[far]
    scales = np.linalg.norm(second[i] - second[j], axis=1) / apart
    shifts = (second[i] + second[j] - scales[:, None] * (first[i] + first[j])) / 2
    off = scales[:, None, None] * first + shifts[:, None] - second
    agree = (off**2).sum(axis=2) <= _AGREE_PX**2
    counts = agree.sum(axis=1)
    tried: list[npt.NDArray[np.bool_]] = []
    for place in np.argsort(-counts, kind="stable"):
        if counts[place] < _LEAST_AGREEING or len(tried) == _MOST_TRIED:
            return
        some = agree[place]
        if any((some <= before).all() for before in tried):
            continue
        tried.append(some)
        yield _fitted(first[some], second[some])


def _fitted(first: Floats, second: Floats) -> tuple[float, Floats]:
    """Scale and shift by least squares."""
    inside, target = first - first.mean(axis=0), second - second.mean(axis=0)
    scale = float((inside * target).sum()) / max(float((inside**2).sum()), 1e-9)
    return scale, second.mean(axis=0) - scale * first.mean(axis=0)


def _shared(scale: float, shift: Floats, size_a: Floats, size_b: Floats) -> Floats | None:
    """What both show, ((top, left), (bottom, right)) in the first; None unless it is nearly all of one."""
    if not _LEAST_SHARE <= scale <= 1 / _LEAST_SHARE:
        return None
    low, high = np.maximum(0.0, -shift / scale), np.minimum(size_a, (size_b - shift) / scale)
    area = float(np.prod(np.maximum(high - low, 0.0)))
    smaller = min(float(np.prod(size_a)), float(np.prod(size_b)) / scale**2)
    return np.stack([low, high]) if area >= 0.85 * smaller else None


def _window(luma: npt.NDArray[np.uint8], box: Floats) -> Floats:
    (top, left), (bottom, right) = box / 2
    window = Image.fromarray(luma).resize(
        (OVERLAY, OVERLAY), Image.Resampling.BILINEAR,
        (max(0.0, float(left)), max(0.0, float(top)), min(KEPT, float(right)), min(KEPT, float(bottom))),
    )  # fmt: skip
    return np.asarray(window, np.float32)


def _unit(pixels: Floats) -> Floats:
    flat = pixels - pixels.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-6))
