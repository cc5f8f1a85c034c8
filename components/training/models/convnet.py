"""`conv`: a convolutional network of your own design, from the settings model.conv_…"""

from __future__ import annotations

from typing import Any

from pergola.components.training.models.layers import batch_norm
from pergola.components.training.models.settings import ModelSettings


def conv(x: Any, settings: ModelSettings, fused: bool) -> Any:
    """Features (N, D) of scaled images (N, H, W, C). Filters double from block to block."""
    from keras import layers

    for block in range(settings.conv_blocks):
        x = _block(x, settings.conv_filters * 2**block, settings, fused)
        if settings.conv_dropout:
            x = layers.Dropout(settings.conv_dropout)(x)
    x = layers.GlobalAveragePooling2D()(x) if settings.conv_pool == "global" else layers.Flatten()(x)
    for units in settings.conv_dense:
        x = layers.Dense(units, activation=settings.conv_activation)(x)
        if settings.conv_dropout:
            x = layers.Dropout(settings.conv_dropout)(x)
    return x


def _block(x: Any, filters: int, settings: ModelSettings, fused: bool) -> Any:
    """Two convolutions, optionally with channel attention and a residual connection, then pooling."""
    from keras import layers

    before = x
    x = _convolve(x, filters, settings, fused)
    x = _convolve(x, filters, settings, fused)
    if settings.conv_attention:
        x = _attend(x, settings.conv_activation)
    if settings.conv_residual:
        x = layers.Add()([layers.Conv2D(filters, 1, use_bias=False)(before), x])
    pool = layers.AveragePooling2D if settings.conv_pool == "average" else layers.MaxPooling2D
    return pool(2)(x) if min(x.shape[1:3]) >= 2 else x


def _convolve(x: Any, filters: int, settings: ModelSettings, fused: bool) -> Any:
    from keras import layers

    kind = layers.SeparableConv2D if settings.conv_separable else layers.Conv2D
    x = kind(filters, settings.conv_kernel, padding="same", use_bias=not settings.conv_normalize)(x)
    if settings.conv_normalize:
        x = batch_norm(fused)(x)
    return layers.Activation(settings.conv_activation)(x)


def _attend(x: Any, activation: str) -> Any:
    """Channels weighted by the content of the whole image (squeeze and excitation, Hu et al., 2018)."""
    from keras import layers

    channels = x.shape[-1]
    weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = layers.Conv2D(max(4, channels // 8), 1, activation=activation)(weights)
    weights = layers.Conv2D(channels, 1, activation="sigmoid")(weights)
    return layers.Multiply()([x, weights])
