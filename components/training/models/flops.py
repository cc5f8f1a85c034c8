"""What a network costs: operations of one forward pass for one image.

Counted are convolutions and dense layers, with two operations a weight that is used: a multiplication and an
addition. Normalisation, activations, pooling and biases are left out; in the networks here they are a few
per cent. So are the decoder and the resizing in front of an exported model.
"""

from __future__ import annotations

import math
from typing import Any

PER_WEIGHT = 2  # a multiplication and an addition


def flops(network: Any) -> int:
    """Operations for one image, of a network whose input size is known."""
    return PER_WEIGHT * sum(_multiplications(layer) for layer in _layers(network))


def _layers(network: Any) -> list[Any]:
    """All layers, those of networks inside the network too."""
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
    places = math.prod(shape[:-1])
    if kind == "SeparableConv2D":
        return places * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    return places * math.prod(layer.kernel.shape)
