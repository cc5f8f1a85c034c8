"""`conv`: a convolutional network to one's own plan, from a handful of settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pergola.components.training.models.layers import batch_norm


@dataclass(frozen=True)
class ConvPlan:
    """What the network is made of. Filters double from block to block."""

    blocks: int
    filters: int  # of the first block
    kernel: int
    pool: str  # "max", "average", or "global": only once, at the end
    separable: bool
    residual: bool
    attention: bool
    normalize: bool
    dropout: float
    dense: tuple[int, ...]
    activation: str


def conv(x: Any, plan: ConvPlan, fused: bool) -> Any:
    """Features (N, D) of scaled images (N, H, W, C)."""
    from keras import layers

    for block in range(plan.blocks):
        x = _block(x, plan.filters * 2**block, plan, fused)
        if plan.dropout:
            x = layers.Dropout(plan.dropout)(x)
    x = layers.GlobalAveragePooling2D()(x) if plan.pool == "global" else layers.Flatten()(x)
    for width in plan.dense:
        x = layers.Dense(width, activation=plan.activation)(x)
        if plan.dropout:
            x = layers.Dropout(plan.dropout)(x)
    return x


def _block(x: Any, filters: int, plan: ConvPlan, fused: bool) -> Any:
    """Two convolutions, around which a shortcut may lead, attention to channels, pooling."""
    from keras import layers

    before = x
    x = _convolve(x, filters, plan, fused)
    x = _convolve(x, filters, plan, fused)
    if plan.attention:
        x = _attend(x, plan.activation)
    if plan.residual:
        x = layers.Add()([layers.Conv2D(filters, 1, use_bias=False)(before), x])
    pool = layers.AveragePooling2D if plan.pool == "average" else layers.MaxPooling2D
    return pool(2)(x) if min(x.shape[1:3]) >= 2 else x


def _convolve(x: Any, filters: int, plan: ConvPlan, fused: bool) -> Any:
    from keras import layers

    kind = layers.SeparableConv2D if plan.separable else layers.Conv2D
    x = kind(filters, plan.kernel, padding="same", use_bias=not plan.normalize)(x)
    if plan.normalize:
        x = batch_norm(fused)(x)
    return layers.Activation(plan.activation)(x)


def _attend(x: Any, activation: str) -> Any:
    """Weigh channels by what the whole image holds (squeeze and excitation, Hu et al., 2018)."""
    from keras import layers

    channels = x.shape[-1]
    weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = layers.Conv2D(max(4, channels // 8), 1, activation=activation)(weights)
    weights = layers.Conv2D(channels, 1, activation="sigmoid")(weights)
    return layers.Multiply()([x, weights])
