"""`resnet_fast`: our own small residual network, designed for time to accuracy.

After David Page's ResNet-9 ("How to train your ResNet", 2018) and Keller Jordan's airbench (2024). The depth
depends on the image size. Small images first pass a convolution with fixed weights that whitens patches of
2 x 2 pixels, so the first trained layer gets uncorrelated values. Large images first pass a stem that
downsamples them. Then stages halve the feature maps and add channels until few pixels are left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pergola.components.training.models.layers import batch_norm

LARGE = 64  # pixels of the shorter side from which on the stem downsamples the image fourfold
LAST = 4  # pixels of the shorter side at which halving stops
PATCH = 2  # side, in pixels, of the patches that are whitened
_LEAST_VARIANCE = 5e-4  # of scaled pixels: directions with less are noise and must not be amplified

WHITEN = "whiten"


def widths(side: int, width: int) -> list[int]:
    """Channels of each stage for images whose shorter side is `side` pixels."""
    left = (side // 4 if side >= LARGE else side) // 2
    stages = [width]
    while left >= 2 * LAST - 1 and len(stages) < 4:
        left //= 2
        stages.append(4 * width)
    return stages if stages[1:] else [2 * width]


def resnet_fast(inputs: Any, *, width: int, dropout: float, fused: bool) -> Any:
    """Features (N, D) of scaled images (N, H, W, C).

    width: channels of the first stage.  dropout: rate at the end.
    """
    from keras import layers

    side = min(inputs.shape[1:3])
    if side >= LARGE:
        x = layers.MaxPooling2D(2)(_convolve(inputs, width, kernel=5, stride=2))
        x = _normalize(x, fused)
    else:
        x = _whiten(inputs)
    for channels in widths(side, width):
        x = _stage(x, channels, fused)
    x = _global_pool(x)
    return layers.Dropout(dropout)(x) if dropout else x


def whitening(covariance: NDArray[np.float64], channels: int) -> NDArray[np.float32]:
    """Filters (2, 2, channels, 8 * channels): the principal components of the patches, scaled to equal
    variance, and their negatives, because ReLU keeps one sign only.

    covariance: of scaled patches, in the order rows, columns, channels.
    """
    variances, directions = np.linalg.eigh(covariance)
    filters = directions / np.sqrt(np.maximum(variances, 0.0) + _LEAST_VARIANCE)
    filters = filters.reshape(PATCH, PATCH, channels, -1)
    return np.concatenate([filters, -filters], axis=-1).astype(np.float32)


def _whiten(x: Any) -> Any:
    """Decorrelated patches. The filters are random until they are set to those of `whitening`."""
    from keras import layers

    filters = 2 * PATCH**2 * x.shape[-1]
    padding = "same" if min(x.shape[1:3]) < 16 else "valid"  # the border matters in tiny images
    x = layers.Conv2D(filters, PATCH, padding=padding, use_bias=False, trainable=False, name=WHITEN)(x)
    return layers.Activation("relu")(x)


def _convolve(x: Any, channels: int, kernel: int = 3, stride: int = 1) -> Any:
    from keras import layers

    return layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal"
    )(x)


def _normalize(x: Any, fused: bool) -> Any:
    from keras import layers

    return layers.Activation("relu")(batch_norm(fused)(x))


def _stage(x: Any, channels: int, fused: bool) -> Any:
    """More channels at half the size, then a residual convolution."""
    from keras import layers

    x = _convolve(x, channels)
    if min(x.shape[1:3]) >= LAST:
        x = layers.MaxPooling2D(2)(x)
    x = _normalize(x, fused)
    return layers.Add()([x, _normalize(_convolve(x, channels), fused)])


def _global_pool(x: Any) -> Any:
    """Mean and maximum of each channel: the maximum detects a small object, the mean a texture."""
    from keras import layers

    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
