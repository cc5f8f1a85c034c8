"""Crops that keep most of an image in nearly its shape ("windows"), wherever they were cut.

Each image is compared, coarsely and with a k-d tree, with a grid of windows of all others, so that not all
pairs of images are compared. Where two are similar, the window is moved and stretched by Gauss-Newton steps
until it fits best (Lucas and Kanade 1981), and the pair is a crop when both look the same. Unlike keypoint
matching this works for a single object on an empty background, but it finds no small crops.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

SQUARE = 64  # pixels per side of the grey images, squeezed to squares

_GRID = ((0.7, 5), (0.76, 4), (0.825, 4), (0.89, 3), (0.95, 2))  # side of a window, positions per axis
_COARSE = 12  # cells per side at which windows are first compared with images
_DIRECTIONS = 16  # principal directions in which images are compared first
_NEIGHBOURS = 40
_MAX_COARSE_DISTANCE = 0.3  # of grey cells shifted to mean 0 and scaled to length 1
# Each step of the fit: cells per side, and the distance above which the fit is abandoned.
_STEPS = ((12, 0.4), (12, 0.3), (12, 0.25), (16, 0.22), (32, 0.22), (32, 0.16))
_CELLS, _MAX_DISTANCE = 32, 0.1  # cells per side, and largest distance of a window that fits
_FLAT = 3.0  # standard deviation, in grey levels, below which there is nothing to compare
_DELTA = np.array([0.01, 0.01, 0.01, 0.01])  # of top, left, height, width, for numerical derivatives
_BLOCK = 1024  # pairs


def window_pairs(squares: npt.NDArray[np.uint8]) -> tuple[Ints, Floats]:
    """Pairs of which one is a window of the other, int64 (M, 2), smaller index first, and their distances.

    squares: uint8 (N, SQUARE, SQUARE), grey images, each squeezed to a square.
    """
    found: dict[tuple[int, int], float] = {}
    for whole, crop, window in _candidates(squares):
        distances = _fitted(squares[whole], squares[crop], window)
        for a, b, distance in zip(whole.tolist(), crop.tolist(), distances.tolist(), strict=True):
            if distance <= _MAX_DISTANCE:
                pair = (min(a, b), max(a, b))
                found[pair] = min(distance, found.get(pair, distance))
    pairs = sorted(found)
    return np.array(pairs, np.int64).reshape(-1, 2), np.array([found[pair] for pair in pairs])


def _candidates(squares: npt.NDArray[np.uint8]) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Blocks of wholes, crops, and windows (n, 4) of the wholes that look like the crops."""
    from scipy.spatial import cKDTree

    usable = np.flatnonzero(squares.std(axis=(1, 2)) >= _FLAT)
    if len(usable) < 2:
        return
    luma = _half(squares[usable])
    wholes = _cells(luma, np.array([[0.0, 0, 1, 1]]), _COARSE)
    _, vectors = np.linalg.eigh((wholes.T @ wholes).astype(np.float64))
    main = vectors[:, -_DIRECTIONS:].astype(np.float32)
    windows = _windows()
    tree = cKDTree(np.concatenate([_cells(luma, window[None], _COARSE) @ main for window in windows]))
    num_neighbours = min(_NEIGHBOURS, tree.n)
    distances, neighbours = tree.query(
        wholes @ main, num_neighbours, distance_upper_bound=_MAX_COARSE_DISTANCE, workers=-1
    )
    crop, column = np.nonzero(np.isfinite(distances))
    window, whole = np.divmod(neighbours[crop, column], len(usable))
    order = np.lexsort((distances[crop, column], whole, crop))
    _, first = np.unique(np.stack([crop, whole])[:, order], axis=1, return_index=True)
    order = order[np.sort(first)]
    order = order[crop[order] != whole[order]]
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        yield usable[whole[block]], usable[crop[block]], windows[window[block]]


def _fitted(whole: npt.NDArray[np.uint8], crop: npt.NDArray[np.uint8], windows: Floats) -> Floats:
    """The distance of each crop and its window, moved to where it fits best; inf when abandoned."""
    found = np.full(len(whole), np.inf)
    left, windows = np.arange(len(whole)), windows.copy()
    full = np.array([[0.0, 0, 1, 1]])
    for cells, max_distance in _STEPS:
        pixels = _half(whole[left]) if cells <= _COARSE else whole[left]
        seen = _cells(pixels, windows[left], cells)
        residuals = _cells(crop[left], full, cells) - seen
        slopes = np.stack([
            (_cells(pixels, windows[left] + step, cells) - seen) / step.sum() for step in np.diag(_DELTA)
        ], axis=1)  # fmt: skip
        kept = np.linalg.norm(residuals, axis=1) <= max_distance
        left, residuals, slopes = left[kept], residuals[kept], slopes[kept]
        windows[left] += _gauss_newton_steps(slopes, residuals)
    difference = _cells(whole[left], windows[left], _CELLS) - _cells(crop[left], full, _CELLS)
    found[left] = np.linalg.norm(difference, axis=1)
    return found


def _gauss_newton_steps(slopes: Floats, residuals: Floats) -> Floats:
    """The steps of windows, (n, 4), that minimise the residuals (n, cells); slopes: (n, 4, cells)."""
    square = slopes @ slopes.transpose(0, 2, 1)
    square += 1e-3 * square * np.eye(4) + 1e-9 * np.eye(4)
    steps = np.linalg.solve(square, slopes @ residuals[:, :, None])[:, :, 0]
    return np.asarray(np.clip(steps, -0.06, 0.06))


def _windows() -> Floats:
    """The grid of windows: top, left, height and width as shares of the sides, (windows, 4)."""
    return np.array([
        (top, left, side, side)
        for side, positions in _GRID
        for top in np.linspace(0, 1 - side, positions)
        for left in np.linspace(0, 1 - side, positions)
    ])  # fmt: skip


def _half(squares: npt.NDArray[np.uint8]) -> Floats:
    rows = squares[:, ::2].astype(np.float32) + squares[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4)


def _cells(luma: npt.NDArray[np.generic], windows: Floats, cells: int) -> Floats:
    """A window of each image as the means of its cells, float32 (n, cells * cells) with mean 0 and length 1.

    luma: (n, S, S).  windows: (n, 4), or (1, 4) for all.
    """
    side = luma.shape[-1]
    down = _weights(windows[:, 0], windows[:, 2], cells, side)
    across = _weights(windows[:, 1], windows[:, 3], cells, side)
    flat = (down @ luma.astype(np.float32) @ across.transpose(0, 2, 1)).reshape(len(luma), cells * cells)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6))


def _weights(start: Floats, length: Floats, cells: int, side: int) -> Floats:
    """The weight of each of `side` pixels in each cell along one axis, float32 (n, cells, side)."""
    edges = (start[:, None] + length[:, None] * np.linspace(0, 1, cells + 1)) * side
    edges = np.clip(edges, 0, side)[:, :, None]
    pixels = np.arange(side)
    shared = np.minimum(edges[:, 1:], pixels + 1) - np.maximum(edges[:, :-1], pixels)
    weights = np.maximum(shared, 0).astype(np.float32)
    return np.asarray(weights / np.maximum(weights.sum(axis=2, keepdims=True), 1e-6))
