"""Near-duplicates: the same image re-encoded, resized, brightened or mirrored.

Two images are copies when their thumbnails, each shifted to mean 0 and scaled to length 1, lie closer to
each other than a limit. Not all pairs are compared: the thumbnails are projected on the few directions in
which they vary most, where distances can only shrink, and a k-d tree of these points gives each image's
neighbours within the limit. So no pair is missed by the projection, only where an image has more than
`_NEIGHBOURS` of them, which are then linked through each other. Among a few thousand points all distances
are taken instead, with the same result: that is sooner done than SciPy is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pergola.components.data.manifest.image_metadata import THUMBNAIL_SIDE

# Measured: copies of leaves and foods (JPEG of quality 20 to 50, half the size, darker, brighter, more
# contrast) lie 0.01 to 0.12 from each other, the nearest other photos of these 0.15 and more. In small ones
# less is to be seen: two different trousers of Fashion-MNIST's 70,000 may lie 0.09 from each other.
_MAX_DISTANCE = 0.12
_MAX_DISTANCE_SMALL = 0.08
_SMALL_SIDE = 64  # pixels

_NEIGHBOURS = 24
_DIRECTIONS = 16
_ITERATIONS = 8
_SAMPLE = 4096  # thumbnails by which the directions are chosen
_FLAT = 3.0  # deviation of a thumbnail, in grey levels, under which there is only noise to compare
_CHUNK = 4096
_FEW = 4096  # points among which all distances are taken
_ROWS = 512  # of a table of distances at once
_HALF = THUMBNAIL_SIDE // 2

Blocks = Callable[[], Iterator[np.ndarray]]  # all thumbnails in order, uint8 (n, side, side), block by block
Some = Callable[[np.ndarray], np.ndarray]  # those at ascending int64 (n,) -> uint8 (n, side, side)
Near = Callable[
    [np.ndarray], tuple[np.ndarray, np.ndarray]
]  # points (n, D) -> their rows, rows of what is near


def near_pairs(sides: np.ndarray, blocks: Blocks, some: Some) -> np.ndarray:
    """Pairs of copies among N distinct images: int64 (M, 2), smaller index first, in order.

    sides: (N,), the longer side of each image in pixels.
    """
    limits = np.where(sides < _SMALL_SIDE, _MAX_DISTANCE_SMALL, _MAX_DISTANCE).astype(np.float32)
    directions = _directions(len(sides), blocks)
    points = np.full((len(sides), _DIRECTIONS), np.nan)
    for start, unit in _units(blocks):
        points[start : start + len(unit)] = _small(unit) @ directions
    usable = np.flatnonzero(np.isfinite(points[:, 0]))
    if len(usable) < 2:
        return np.zeros((0, 2), np.int64)
    among = points[usable] if len(usable) < len(points) else points
    near = (near_in_all if len(usable) <= _FEW else near_in_tree)(among, float(limits.max()))
    del points, among
    found = []
    for turned in (False, True):
        pairs = _candidates(near, usable, blocks, directions, turned)
        found.append(_confirmed(pairs, some, turned, limits))
    return np.unique(np.concatenate(found), axis=0)


def components(pairs: np.ndarray, count: int) -> np.ndarray:
    """For each of `count` images the smallest index that it is linked with, int64 (count,)."""
    roots = np.arange(count)

    def root(i: int) -> int:
        while roots[i] != i:
            roots[i] = roots[roots[i]]
            i = int(roots[i])
        return i

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        roots[high] = low
    linked = np.unique(pairs)
    roots[linked] = [root(i) for i in linked.tolist()]
    return roots


def near_in_tree(among: np.ndarray, limit: float) -> Near:
    """What finds, for points, those of `among` (float (N, D)) within `limit`, at most _NEIGHBOURS a point."""
    from scipy.spatial import cKDTree

    tree = cKDTree(among, copy_data=False)
    neighbours = min(_NEIGHBOURS, len(among))

    def near(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances, places = tree.query(points, k=neighbours, distance_upper_bound=limit)
        rows, columns = np.nonzero(np.isfinite(distances))
        return rows, places[rows, columns]

    return near


def near_in_all(among: np.ndarray, limit: float) -> Near:
    """As near_in_tree, by the distances of all to all."""
    lengths = (among**2).sum(axis=1)

    def near(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [np.zeros((2, 0), np.int64)]
        for start in range(0, len(points), _ROWS):
            some = points[start : start + _ROWS].astype(np.float64)
            squares = (some**2).sum(axis=1)[:, None] + lengths - 2 * some @ among.T
            close = squares < limit**2
            for row in np.flatnonzero(close.sum(axis=1) > _NEIGHBOURS):
                close[row, np.argsort(squares[row], kind="stable")[_NEIGHBOURS:]] = False
            rows, places = np.nonzero(close)
            found.append(np.stack([rows + start, places]))
        return tuple(np.concatenate(found, axis=1))

    return near


def _directions(count: int, blocks: Blocks) -> np.ndarray:
    """Orthonormal float32 (half * half, _DIRECTIONS): the main directions of an even sample."""
    step = max(1, count // _SAMPLE)
    place, sample = 0, []
    for block in blocks():
        unit = _small(_unit(block[(-place) % step :: step]))
        sample.append(unit[np.isfinite(unit[:, 0])])
        place += len(block)
    rows = np.concatenate(sample)
    spread = (rows.T @ rows).astype(np.float64)
    # Subspace iteration: near enough, any orthonormal directions would do, and cheap on a busy machine.
    directions = np.random.default_rng(0).normal(size=(len(spread), _DIRECTIONS))
    for _ in range(_ITERATIONS):
        directions, _ = np.linalg.qr(spread @ directions)
    return directions.astype(np.float32)


def _units(blocks: Blocks) -> Iterator[tuple[int, np.ndarray]]:
    """All thumbnails as `_unit` gives them, in small portions with the number of their first."""
    place = 0
    for block in blocks():
        for start in range(0, len(block), _CHUNK):
            unit = _unit(block[start : start + _CHUNK])
            yield place, unit
            place += len(unit)


def _candidates(
    near: Near, usable: np.ndarray, blocks: Blocks, directions: np.ndarray, turned: bool
) -> np.ndarray:
    """Pairs that may be copies, int64 (M, 2), smaller index first, each once."""
    found = [np.zeros((0, 2), np.int64)]
    for start, unit in _units(blocks):
        rows = np.flatnonzero(np.isfinite(unit[:, 0]))
        points = _small(_turned(unit[rows]) if turned else unit[rows]) @ directions
        row, place = near(points)
        first, second = rows[row] + start, usable[place]
        pairs = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    return np.unique(np.concatenate(found), axis=0)


def _confirmed(pairs: np.ndarray, some: Some, turned: bool, limits: np.ndarray) -> np.ndarray:
    """The pairs whose whole thumbnails, the second mirrored if `turned`, lie within both limits."""
    if not len(pairs):
        return pairs
    involved = np.unique(pairs)
    thumbnails = some(involved)
    places = np.searchsorted(involved, pairs)
    same = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _CHUNK):
        first, second = (_unit(thumbnails[places[start : start + _CHUNK, side]]) for side in (0, 1))
        distances = np.linalg.norm(first - (_turned(second) if turned else second), axis=1)
        same[start : start + _CHUNK] = distances <= limits[pairs[start : start + _CHUNK]].min(axis=1)
    return pairs[same]


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """float32 (n, side * side) with mean 0 and length 1; nan where there is nothing but noise."""
    pixels = thumbnails.reshape(-1, THUMBNAIL_SIDE**2).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return pixels / np.where(length < _FLAT * THUMBNAIL_SIDE, np.nan, length)


def _turned(unit: np.ndarray) -> np.ndarray:
    return unit.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)[:, :, ::-1].reshape(-1, THUMBNAIL_SIDE**2)


def _small(unit: np.ndarray) -> np.ndarray:
    """Half as high and wide; halving each sum of four keeps distances from growing."""
    rows = unit.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    half = rows[:, ::2] + rows[:, 1::2]
    return ((half[:, :, ::2] + half[:, :, 1::2]) / 2).reshape(-1, _HALF**2)
