"""Images that are a window of another one: most of it, in nearly its shape, wherever it was cut.

Each image is compared, coarsely and through a k-d tree, with a grid of windows of all others, so not all
pairs are compared. Where two are alike, the window is moved and stretched by Gauss and Newton's steps until
it fits best (Lucas and Kanade 1981), and the pair is a crop when both look the same. Unlike the points of
components/data/checks/crops.py this works for a single thing on an empty sheet; it finds no small crops.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

SQUARE = 64  # pixels a side of the grey images, squeezed to squares

_GRID = ((0.7, 5), (0.76, 4), (0.825, 4), (0.89, 3), (0.95, 2))  # side of a window -> places a direction
_COARSE = 12  # cells a side in which windows are compared with images
_DIRECTIONS = 16  # in which images are compared first
_NEIGHBOURS = 40
_NEAR = 0.3  # distance on the grid, of grey cells shifted to mean 0 and scaled to length 1
# Cells a side of each step of the fit, and the distance above which it is given up.
_STEPS = ((12, 0.4), (12, 0.3), (12, 0.25), (16, 0.22), (32, 0.22), (32, 0.16))
_CELLS, _SAME = 32, 0.1  # cells a side, and distance at most, of a window that fits
_FLAT = 3.0  # deviation in grey levels under which there is nothing to compare
_SLOPE = np.array([0.01, 0.01, 0.01, 0.01])  # of down, across, high, wide, by which slopes are measured
_BLOCK = 1024  # pairs


def window_pairs(squares: npt.NDArray[np.uint8]) -> tuple[Ints, Floats]:
    """Pairs of which one is a window of the other, int64 (M, 2), smaller index first, and their distances.

    squares: uint8 (N, SQUARE, SQUARE), grey images, each squeezed to a square.
    """
    found: dict[tuple[int, int], float] = {}
    for whole, part, window in _candidates(squares):
        distances = _fitted(squares[whole], squares[part], window)
        for a, b, distance in zip(whole.tolist(), part.tolist(), distances.tolist(), strict=True):
            if distance <= _SAME:
                pair = (min(a, b), max(a, b))
                found[pair] = min(distance, found.get(pair, distance))
    pairs = sorted(found)
    return np.array(pairs, np.int64).reshape(-1, 2), np.array([found[pair] for pair in pairs])


def _candidates(squares: npt.NDArray[np.uint8]) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Blocks of wholes, parts, and windows (n, 4) of the wholes that look like the parts."""
    from scipy.spatial import cKDTree

    usable = np.flatnonzero(squares.std(axis=(1, 2)) >= _FLAT)
    if len(usable) < 2:
        return
    luma = _half(squares[usable])
    wholes = _looks(luma, np.array([[0.0, 0, 1, 1]]), _COARSE)
    _, vectors = np.linalg.eigh((wholes.T @ wholes).astype(np.float64))
    main = vectors[:, -_DIRECTIONS:].astype(np.float32)
    windows = _windows()
    tree = cKDTree(np.concatenate([_looks(luma, window[None], _COARSE) @ main for window in windows]))
    neighbours = min(_NEIGHBOURS, tree.n)
    distances, near = tree.query(wholes @ main, neighbours, distance_upper_bound=_NEAR, workers=-1)
    part, column = np.nonzero(np.isfinite(distances))
    window, whole = np.divmod(near[part, column], len(usable))
    order = np.lexsort((distances[part, column], whole, part))
    _, first = np.unique(np.stack([part, whole])[:, order], axis=1, return_index=True)
    order = order[np.sort(first)]
    order = order[part[order] != whole[order]]
    for start in range(0, len(order), _BLOCK):
        some = order[start : start + _BLOCK]
        yield usable[whole[some]], usable[part[some]], windows[window[some]]


def _fitted(whole: npt.NDArray[np.uint8], part: npt.NDArray[np.uint8], windows: Floats) -> Floats:
    """How unlike each part and its window are, the window moved to where it fits best; inf: given up."""
    found = np.full(len(whole), np.inf)
    left, windows = np.arange(len(whole)), windows.copy()
    every = np.array([[0.0, 0, 1, 1]])
    for cells, most in _STEPS:
        some = _half(whole[left]) if cells <= _COARSE else whole[left]
        seen = _looks(some, windows[left], cells)
        off = _looks(part[left], every, cells) - seen
        slopes = np.stack([
            (_looks(some, windows[left] + step, cells) - seen) / step.sum() for step in np.diag(_SLOPE)
        ], axis=1)  # fmt: skip
        kept = np.linalg.norm(off, axis=1) <= most
        left, off, slopes = left[kept], off[kept], slopes[kept]
        windows[left] += _moves(slopes, off)
    looks = _looks(whole[left], windows[left], _CELLS) - _looks(part[left], every, _CELLS)
    found[left] = np.linalg.norm(looks, axis=1)
    return found


def _moves(slopes: Floats, off: Floats) -> Floats:
    """The least squares' steps of windows, (n, 4): slopes (n, 4, cells) times them are nearest to off."""
    square = slopes @ slopes.transpose(0, 2, 1)
    square += 1e-3 * square * np.eye(4) + 1e-9 * np.eye(4)
    steps = np.linalg.solve(square, slopes @ off[:, :, None])[:, :, 0]
    return np.asarray(np.clip(steps, -0.06, 0.06))


def _windows() -> Floats:
    """The grid: top, left, height, width as shares of the sides, (windows, 4)."""
    return np.array([
        (top, left, side, side)
        for side, places in _GRID
        for top in np.linspace(0, 1 - side, places)
        for left in np.linspace(0, 1 - side, places)
    ])  # fmt: skip


def _half(squares: npt.NDArray[np.uint8]) -> Floats:
    rows = squares[:, ::2].astype(np.float32) + squares[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)


def _looks(luma: npt.NDArray[np.generic], windows: Floats, cells: int) -> Floats:
    """A window of each image as means of cells, float32 (n, cells * cells) with mean 0 and length 1.

    luma: (n, S, S).  windows: (n, 4), or (1, 4) for all.
    """
    side = luma.shape[-1]
    down = _weights(windows[:, 0], windows[:, 2], cells, side)
    across = _weights(windows[:, 1], windows[:, 3], cells, side)
    flat = (down @ luma.astype(np.float32) @ across.transpose(0, 2, 1)).reshape(len(luma), cells * cells)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))


def _weights(start: Floats, length: Floats, cells: int, side: int) -> Floats:
    """How much each of `side` pixels counts in each cell of a window's side, float32 (n, cells, side)."""
    edges = (start[:, None] + length[:, None] * np.linspace(0, 1, cells + 1)) * side
    edges = np.clip(edges, 0, side)[:, :, None]
    pixels = np.arange(side)
    shared = np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :-1], pixels)
    weights = np.maximum(shared, 0).astype(np.float32)
    return np.asarray(weights / np.maximum(weights.sum(axis=2, keepdims=True), 1e-6))
