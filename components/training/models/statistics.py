"""Statistics of the training images that a network's first layers are initialised with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pergola.components.training.models.resnet import PATCH

if TYPE_CHECKING:
    import numpy as np

MAX_PATCH_IMAGES = 1000  # images whose patches are measured
PATCHES_PER_SIDE = 32  # positions sampled along each side of an image, approximately


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of the training pixels for each channel, 0 to 255."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    patches: tuple[tuple[float, ...], ...] = ()  # covariance of patches of 2 x 2 pixels; (): not measured


def measure(images: np.ndarray) -> Statistics:
    """The statistics of uint8 (N, H, W, C)."""
    import numpy as np

    levels = np.arange(256.0)
    frequencies = _histograms(images) / images[..., 0].size
    means = frequencies @ levels
    deviations = np.sqrt(np.maximum(frequencies @ levels**2 - means**2, 0.0))
    covariance = _patch_covariance(images).tolist()
    return Statistics(
        tuple(map(float, means)),
        tuple(float(max(d, 1.0)) for d in deviations),
        tuple(tuple(map(float, row)) for row in covariance),
    )


def _histograms(images: np.ndarray) -> np.ndarray:
    """Count of each pixel value in each channel, int64 (C, 256)."""
    import numpy as np

    counts = np.zeros((images.shape[-1], 256), np.int64)
    for image in images:  # one at a time: bincount makes 64-bit integers of the pixels
        for channel, row in enumerate(counts):
            row += np.bincount(image[..., channel].ravel(), minlength=256)
    return counts


def _patch_covariance(images: np.ndarray) -> np.ndarray:
    """Covariance, float64 (4 * C, 4 * C), of a sample of the patches of 2 x 2 pixels."""
    import numpy as np

    sample = images[:: -(-len(images) // MAX_PATCH_IMAGES)]
    rows, columns = images.shape[1] - 1, images.shape[2] - 1  # where a patch can start
    stride = max(1, min(images.shape[1:3]) // PATCHES_PER_SIDE)
    corners = [sample[:, y : y + rows : stride, x : x + columns : stride] for y in (0, 1) for x in (0, 1)]
    patches = np.concatenate(corners, axis=-1).reshape(-1, PATCH**2 * images.shape[-1]).astype(np.float32)
    patches -= patches.mean(0, dtype=np.float64).astype(np.float32)
    return (patches.T @ patches).astype(np.float64) / len(patches)
