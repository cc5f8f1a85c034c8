"""A network with its batch normalisation folded into the layers before it.

At inference, batch normalisation multiplies and adds a constant per channel, which the weights of the layer
before can include. Without that pass a served network takes about a tenth less time on a CPU
(docs/training-performance.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np

_FOLDABLE = ("Conv2D", "DepthwiseConv2D", "Dense")


def fold_batch_norm(network: Any) -> Any:
    """A copy without the batch normalisation that directly follows a linear layer.

    Max pooling may be between the two if no scale is negative, since the maximum then stays the maximum.
    Other batch normalisation, such as one after an activation, is kept. Outputs are equal up to rounding.
    """
    import keras

    pairs = _pairs(network)
    folded = {norm.name for norm in pairs.values()}

    def clone(layer: Any) -> Any:
        if layer.name in pairs:
            return layer.__class__.from_config({**layer.get_config(), "use_bias": True})
        return layer.__class__.from_config(layer.get_config())

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        return inputs[0] if layer.name in folded else layer(*inputs, **options)

    copy = keras.models.clone_model(network, clone_function=clone, call_function=call)
    for layer in network.layers:
        if layer.name in pairs:
            copy.get_layer(layer.name).set_weights(_folded_weights(layer, pairs[layer.name]))
        elif layer.name not in folded:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy


def _pairs(network: Any) -> dict[str, Any]:
    """Names of linear layers -> the batch normalisation that is the only consumer of their output."""
    found = {}
    for layer in network.layers:
        if layer.__class__.__name__ != "BatchNormalization" or len(layer._inbound_nodes) != 1:
            continue
        before = _before(layer)
        if before.__class__.__name__ == "MaxPooling2D" and _is_used_once(before) and _keeps_order(layer):
            before = _before(before)
        is_linear = getattr(getattr(before, "activation", None), "__name__", "") == "linear"
        if before.__class__.__name__ in _FOLDABLE and is_linear and _is_used_once(before):
            found[before.name] = layer
    return found


def _before(layer: Any) -> Any:
    return layer.input._keras_history.operation


def _is_used_once(layer: Any) -> bool:
    """Whether a layer has one input and one consumer."""
    return len(layer._outbound_nodes) == 1 and len(layer._inbound_nodes) == 1


def _keeps_order(norm: Any) -> bool:
    """Whether the normalisation is monotonic in every channel: what is larger before is larger after."""
    return not norm.scale or bool((np.asarray(norm.gamma) >= 0).all())


def _folded_weights(layer: Any, norm: Any) -> list[Any]:
    weights = layer.get_weights()
    kernel, bias = weights[0], weights[1] if layer.use_bias else 0.0
    mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
    gain = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        gain = gain * np.asarray(norm.gamma)
    shift = (bias - mean) * gain
    if norm.center:
        shift = shift + np.asarray(norm.beta)
    if layer.__class__.__name__ == "DepthwiseConv2D":
        return [kernel * gain.reshape(kernel.shape[2:]), shift]
    return [kernel * gain, shift]
