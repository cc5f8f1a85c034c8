"""Near-duplicates: the same image re-encoded, resized, brightened, mirrored or turned by a right angle.

Two images are near-duplicates when the distance between their thumbnails, each shifted to mean 0 and scaled
to length 1, is below a limit. Not all pairs are compared: the thumbnails are projected on the few directions
in which they vary most, where distances can only shrink, and a k-d tree of the projected points gives each
image's neighbours within the limit. So the projection misses no pair. Only an image with more than
`_NEIGHBOURS` neighbours loses some, and those are linked through each other. For a few thousand points all
distances are computed instead, with the same result: that takes less time than importing SciPy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pergola.components.data.manifest.image_metadata import THUMBNAIL_SIDE

# Measured: distances of copies of leaves and foods (JPEG quality 20 to 50, half the size, darker, brighter,
# more contrast) are 0.01 to 0.12, of the nearest different photos 0.15 and more. Small images show less
# detail: two different pairs of trousers among Fashion-MNIST's 70,000 images may be 0.09 apart.
_MAX_DISTANCE = 0.12
_MAX_DISTANCE_SMALL = 0.08
_SMALL_SIDE = 64  # pixels

_NEIGHBOURS = 24
_DIRECTIONS = 16
_ITERATIONS = 8
_SAMPLE = 4096  # thumbnails from which the directions are computed
_FLAT = 3.0  # standard deviation of a thumbnail, in grey levels, below which only noise is left to compare
_CHUNK = 4096
_FEW = 4096  # points up to which all distances are computed
_ROWS = 512  # of the distance matrix, computed at once
_HALF = THUMBNAIL_SIDE // 2

Blocks = Callable[[], Iterator[np.ndarray]]  # all thumbnails in order, uint8 (n, side, side), in blocks
ThumbnailsAt = Callable[[np.ndarray], np.ndarray]  # ascending rows int64 (n,) -> uint8 (n, side, side)
Turn = Callable[[np.ndarray], np.ndarray]  # images (n, side, side), each mirrored or turned alike
# points (n, D) -> pairs as two arrays: a row of the points, and the row of a neighbour
FindNeighbours = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def near_pairs(sides: np.ndarray, blocks: Blocks, at: ThumbnailsAt) -> np.ndarray:
    """Pairs of near-duplicates among N unique images: int64 (M, 2), smaller index first, sorted.

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
    candidates = points[usable] if len(usable) < len(points) else points
    search = exhaustive_search if len(usable) <= _FEW else tree_search
    find = search(candidates, float(limits.max()))
    del points, candidates
    found = []
    for turn in _TURNS:
        pairs = _candidates(find, usable, blocks, directions, turn)
        found.append(_confirmed(pairs, at, turn, limits))
    return np.unique(np.concatenate(found), axis=0)


def components(pairs: np.ndarray, count: int) -> np.ndarray:
    """The connected component of each of `count` images, named by its smallest index: int64 (count,)."""
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


def tree_search(candidates: np.ndarray, limit: float) -> FindNeighbours:
    """Finds the neighbours of points among `candidates`, float (N, D), within `limit`.

    Gives at most _NEIGHBOURS per point, the nearest ones.
    """
    from scipy.spatial import cKDTree

    tree = cKDTree(candidates, copy_data=False)
    num_neighbours = min(_NEIGHBOURS, len(candidates))

    def find(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distances, neighbours = tree.query(points, k=num_neighbours, distance_upper_bound=limit)
        rows, columns = np.nonzero(np.isfinite(distances))
        return rows, neighbours[rows, columns]

    return find


def exhaustive_search(candidates: np.ndarray, limit: float) -> FindNeighbours:
    """The same as tree_search, by computing all distances."""
    lengths = (candidates**2).sum(axis=1)

    def find(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [np.zeros((2, 0), np.int64)]
        for start in range(0, len(points), _ROWS):
            block = points[start : start + _ROWS].astype(np.float64)
            squares = (block**2).sum(axis=1)[:, None] + lengths - 2 * block @ candidates.T
            close = squares < limit**2
            for row in np.flatnonzero(close.sum(axis=1) > _NEIGHBOURS):
                close[row, np.argsort(squares[row], kind="stable")[_NEIGHBOURS:]] = False
            rows, neighbours = np.nonzero(close)
            found.append(np.stack([rows + start, neighbours]))
        return tuple(np.concatenate(found, axis=1))

    return find


def _directions(count: int, blocks: Blocks) -> np.ndarray:
    """The principal directions of every n-th thumbnail: orthonormal float32 (half * half, _DIRECTIONS)."""
    step = max(1, count // _SAMPLE)
    start, sample = 0, []
    for block in blocks():
        unit = _small(_unit(block[(-start) % step :: step]))
        sample.append(unit[np.isfinite(unit[:, 0])])
        start += len(block)
    rows = np.concatenate(sample)
    spread = (rows.T @ rows).astype(np.float64)
    # Subspace iteration is cheap. It is exact enough, since any orthonormal directions would do.
    directions = np.random.default_rng(0).normal(size=(len(spread), _DIRECTIONS))
    for _ in range(_ITERATIONS):
        directions, _ = np.linalg.qr(spread @ directions)
    return directions.astype(np.float32)


def _units(blocks: Blocks) -> Iterator[tuple[int, np.ndarray]]:
    """All thumbnails as `_unit` gives them, in chunks with the number of their first one."""
    first = 0
    for block in blocks():
        for start in range(0, len(block), _CHUNK):
            unit = _unit(block[start : start + _CHUNK])
            yield first, unit
            first += len(unit)


def _candidates(
    find: FindNeighbours, usable: np.ndarray, blocks: Blocks, directions: np.ndarray, turn: Turn
) -> np.ndarray:
    """Pairs that may be near-duplicates, int64 (M, 2), smaller index first, each once."""
    found = [np.zeros((0, 2), np.int64)]
    for start, unit in _units(blocks):
        rows = np.flatnonzero(np.isfinite(unit[:, 0]))
        points = _small(_turned(unit[rows], turn)) @ directions
        row, neighbour = find(points)
        first, second = rows[row] + start, usable[neighbour]
        pairs = np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)
        found.append(pairs[pairs[:, 0] != pairs[:, 1]])
    return np.unique(np.concatenate(found), axis=0)


def _confirmed(pairs: np.ndarray, at: ThumbnailsAt, turn: Turn, limits: np.ndarray) -> np.ndarray:
    """The pairs whose full thumbnails, one of them turned, are within both limits."""
    if not len(pairs):
        return pairs
    involved = np.unique(pairs)
    thumbnails = at(involved)
    rows = np.searchsorted(involved, pairs)
    same = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _CHUNK):
        first, second = (_unit(thumbnails[rows[start : start + _CHUNK, side]]) for side in (0, 1))
        distances = np.linalg.norm(first - _turned(second, turn), axis=1)
        if turn is _quarter:  # the other turns undo themselves: it does not matter which image is turned
            distances = np.minimum(distances, np.linalg.norm(_turned(first, turn) - second, axis=1))
        same[start : start + _CHUNK] = distances <= limits[pairs[start : start + _CHUNK]].min(axis=1)
    return pairs[same]


def _unit(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails shifted to mean 0 and scaled to length 1, float32 (n, side * side); nan if only noise."""
    pixels = thumbnails.reshape(-1, THUMBNAIL_SIDE**2).astype(np.float32)
    pixels -= pixels.mean(axis=1, keepdims=True)
    length = np.linalg.norm(pixels, axis=1, keepdims=True)
    return pixels / np.where(length < _FLAT * THUMBNAIL_SIDE, np.nan, length)


def _turned(unit: np.ndarray, turn: Turn) -> np.ndarray:
    return turn(unit.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)).reshape(-1, THUMBNAIL_SIDE**2)


def _quarter(images: np.ndarray) -> np.ndarray:
    return np.rot90(images, axes=(1, 2))


# Every way in which a square lies on itself; of the two quarter turns, which undo each other, one.
_TURNS: tuple[Turn, ...] = (
    lambda images: images,
    lambda images: images[:, :, ::-1],
    lambda images: images[:, ::-1],
    lambda images: images[:, ::-1, ::-1],
    lambda images: images.swapaxes(1, 2),
    lambda images: np.rot90(images, 2, axes=(1, 2)).swapaxes(1, 2),
    _quarter,
)


def _small(unit: np.ndarray) -> np.ndarray:
    """At half the size. Dividing each sum of four pixels by 2 ensures that distances do not grow."""
    rows = unit.reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    half = rows[:, ::2] + rows[:, 1::2]
    return ((half[:, :, ::2] + half[:, :, 1::2]) / 2).reshape(-1, _HALF**2)
