"""Keypoints: the most distinctive points of an image, with a small patch around each.

They are found at several scales as extrema of differences of Gaussians (Lowe 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
KeypointRow = tuple[Floats, Floats, Floats, npt.NDArray[np.uint8]]

SIDE = 128  # pixels of the longer side at which keypoints are detected
MIN_SIDE = 64  # pixels; images with a shorter side have no keypoints
NUM_KEYPOINTS = 32  # per image
PATCH = 12  # samples per side of a patch
STORED_SIDE = SIDE // 2  # pixels per side of the grey image that is stored with the keypoints

_SIGMAS = 1.6 * 2 ** (np.arange(8) / 3)


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of N images, K per image, and the grey images themselves.

    positions: float32 (N, K, 2), (y, x) in pixels of the image at SIDE; nan where an image has fewer.
    patches: float16 (N, K, PATCH * PATCH), mean 0, length 1.  sizes: float32 (N, 2), height and width.
    luma: uint8 (N, STORED_SIDE, STORED_SIDE), the image at half that size, in the upper left corner.
    """

    positions: Floats
    patches: Floats
    sizes: Floats
    luma: npt.NDArray[np.uint8]

    @staticmethod
    def of(rows: Sequence[KeypointRow]) -> Keypoints:
        """From rows of `detect_keypoints`."""
        if not rows:
            empty = (
                np.zeros((0, NUM_KEYPOINTS, 2), np.float32),
                np.zeros((0, NUM_KEYPOINTS, PATCH * PATCH), np.float16),
            )
            return Keypoints(
                *empty, np.zeros((0, 2), np.float32), np.zeros((0, STORED_SIDE, STORED_SIDE), np.uint8)
            )
        return Keypoints(*(np.stack(column) for column in zip(*rows, strict=True)))


def detect_keypoints(image: Image.Image) -> KeypointRow:
    """A row of Keypoints: positions, patches, size, luma."""
    positions = np.full((NUM_KEYPOINTS, 2), np.nan, np.float32)
    patches = np.zeros((NUM_KEYPOINTS, PATCH * PATCH), np.float16)
    luma = np.zeros((STORED_SIDE, STORED_SIDE), np.uint8)
    if min(image.size) < MIN_SIDE:
        return positions, patches, np.zeros(2, np.float32), luma
    scale = SIDE / max(image.size)
    width, height = (max(8, round(side * scale)) for side in image.size)
    grey = np.asarray(image.convert("L").resize((width, height), Image.Resampling.BOX))
    half = np.asarray(Image.fromarray(grey).reduce(2))
    luma[: half.shape[0], : half.shape[1]] = half
    smooth = _smoothed(grey.astype(np.float32))
    found = _extrema(np.abs(np.diff(smooth, axis=0)))
    positions[: len(found)] = found[:, 1:]
    patches[: len(found)] = _patches(smooth, found)
    return positions, patches, np.array(grey.shape, np.float32), luma


def _smoothed(grey: Floats) -> Floats:
    """The image filtered with Gaussians of _SIGMAS, float32 (levels, H, W), each from the level before."""
    from scipy import ndimage

    levels, before = [], 0.0
    for sigma in _SIGMAS:
        grey = ndimage.gaussian_filter(grey, np.sqrt(sigma**2 - before**2), truncate=2.5, mode="nearest")
        levels.append(grey)
        before = float(sigma)
    return np.stack(levels)


def _extrema(strength: Floats) -> Ints:
    """The strongest local maxima, int (k, 3): level, y, x."""
    from scipy import ndimage

    peak = (strength == ndimage.maximum_filter(strength, size=3)) & (strength > 0.5)
    peak[[0, -1]] = False
    candidates = np.argwhere(peak)
    order = np.argsort(-strength[tuple(candidates.T)], kind="stable")[:NUM_KEYPOINTS]
    return np.asarray(candidates[order])


def _patches(smooth: Floats, found: Ints) -> Floats:
    """Patches whose extent grows with the scale of their keypoint, float32 (k, PATCH * PATCH)."""
    from scipy import ndimage

    grid = np.arange(PATCH) - (PATCH - 1) / 2
    steps = _SIGMAS[found[:, 0], None]
    down = (found[:, 1, None] + steps * grid)[:, :, None]
    across = (found[:, 2, None] + steps * grid)[:, None, :]
    rows = np.zeros((len(found), PATCH * PATCH), np.float32)
    for level in np.unique(found[:, 0]):
        here = found[:, 0] == level
        at = np.broadcast_arrays(down[here], across[here])
        values = ndimage.map_coordinates(smooth[level], at, order=1, mode="nearest")
        rows[here] = values.reshape(-1, PATCH * PATCH)
    rows -= rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))
