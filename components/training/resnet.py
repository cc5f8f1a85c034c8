"""`resnet_fast`: our own small residual network, made for time to accuracy.

After David Page's ResNet-9 ("How to train your ResNet", 2018) with its depth set by the picture's
size: a stem, then stages that halve the picture and widen it until four pixels a side are left.
"""

from __future__ import annotations

from typing import Any

from components.training.layers import batch_norm

LARGE = 64  # pixels of the shorter side from which on the stem shrinks the picture fourfold
LAST = 4  # pixels of the shorter side at which halving ends


def widths(side: int, width: int) -> list[int]:
    """Channels of the stages after the stem for pictures whose shorter side is `side` pixels."""
    left = side // 4 if side >= LARGE else side
    stages: list[int] = []
    while left >= 2 * LAST and len(stages) < 4:
        left //= 2
        stages.append(min(width * 2 ** (len(stages) + 1), 8 * width))
    return stages or [2 * width]


def resnet_fast(inputs: Any, *, width: int, dropout: float, fused: bool) -> Any:
    """Features (N, D) of scaled pictures (N, H, W, C).

    width: channels of the stem, doubled a stage.  dropout: share of features dropped at the end.
    """
    from keras import layers

    side = min(inputs.shape[1:3])
    if side >= LARGE:
        x = _convolve(inputs, width, fused, kernel=5, stride=2)
        x = layers.MaxPooling2D(2)(x)
    else:
        x = _convolve(inputs, width, fused)
    for channels in widths(side, width):
        x = _stage(x, channels, fused)
    x = _global_pool(x)
    return layers.Dropout(dropout)(x) if dropout else x


def _convolve(x: Any, channels: int, fused: bool, kernel: int = 3, stride: int = 1) -> Any:
    from keras import layers

    x = layers.Conv2D(
        channels, kernel, stride, padding="same", use_bias=False, kernel_initializer="he_normal"
    )(x)
    return layers.Activation("relu")(batch_norm(fused)(x))


def _stage(x: Any, channels: int, fused: bool) -> Any:
    """Widen, halve, and add a residual of two convolutions."""
    from keras import layers

    x = _convolve(x, channels, fused)
    if min(x.shape[1:3]) >= 2 * LAST:
        x = layers.MaxPooling2D(2)(x)
    residual = _convolve(_convolve(x, channels, fused), channels, fused)
    return layers.Add()([x, residual])


def _global_pool(x: Any) -> Any:
    """Mean and maximum of each channel, together: the maximum finds a small part, the mean a texture."""
    from keras import layers

    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
