"""Floating-point operations of one forward pass for one image.

Convolutions and dense layers are counted, with two operations for each use of a weight: a multiplication and
an addition. Normalisation, activations, pooling and biases are not counted; in these networks they are a few
per cent. Nor are decoding and resizing in an exported model.
"""

from __future__ import annotations

import math
from typing import Any

PER_WEIGHT = 2  # a multiplication and an addition


def flops(network: Any) -> int:
    """Operations for one image, of a network with a fixed input size."""
    return PER_WEIGHT * sum(_multiplications(layer) for layer in _layers(network))


def _layers(network: Any) -> list[Any]:
    """All layers, including those of nested networks."""
    found = []
    for layer in network.layers:
        found += _layers(layer) if hasattr(layer, "layers") else [layer]
    return found


def _multiplications(layer: Any) -> int:
    kind = layer.__class__.__name__
    if kind not in ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Dense"):
        return 0
    shape = layer.output.shape[1:]
    if kind == "Dense":
        return math.prod(layer.kernel.shape) * math.prod(shape[:-1])
    positions = math.prod(shape[:-1])
    if kind == "SeparableConv2D":
        return positions * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    return positions * math.prod(layer.kernel.shape)
