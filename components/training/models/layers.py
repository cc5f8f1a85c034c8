"""Batch normalisation that trains faster than Keras's own, and is saved as Keras's own.

Keras 3 computes batch normalisation with several operations. In bfloat16 on two CPU cores they took
two thirds of a convolutional network's training time; TensorFlow's fused kernel takes a tenth
(docs/training-performance.md). So each network is built twice from the same code: with `fused=True` for
training and with `fused=False` for saving. Both have the same weights in the same order.
"""

from __future__ import annotations

from functools import cache
from typing import Any

MOMENTUM, EPSILON = 0.9, 1e-3


def batch_norm(fused: bool, **options: Any) -> Any:
    """A batch normalisation layer: the fused one for training with TensorFlow, otherwise Keras's own."""
    import keras

    options = {"momentum": MOMENTUM, "epsilon": EPSILON, **options}
    if fused and keras.backend.backend() == "tensorflow":
        return _fused_class()(dtype="float32", autocast=False, **options)
    return keras.layers.BatchNormalization(**options)


def fused(network: Any) -> Any:
    """A copy of a network with the same weights and with fused batch normalisation where possible.

    The inputs of those layers must be feature maps (N, H, W, C).
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return network

    def clone(layer: Any) -> Any:
        if type(layer) is not keras.layers.BatchNormalization or not (layer.scale and layer.center):
            return layer.__class__.from_config(layer.get_config())
        kept = {key: layer.get_config()[key] for key in ("name", "axis", "momentum", "epsilon")}
        return _fused_class()(dtype="float32", autocast=False, **kept)

    copy = keras.models.clone_model(network, clone_function=clone)
    copy.set_weights(network.get_weights())
    return copy


@cache
def _fused_class() -> type:
    """The class, defined on first use because Keras is slow to import."""
    import keras

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        """Keras's layer for feature maps (N, H, W, C), with a training pass of one kernel.

        Inputs keep their dtype (bfloat16 stays bfloat16); weights and statistics are float32.
        """

        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            import tensorflow as tf

            if not (training and self.trainable):
                return self._inference(inputs)
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                tf.convert_to_tensor(self.gamma),
                tf.convert_to_tensor(self.beta),
                epsilon=self.epsilon,
                is_training=True,
            )
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance)
            return outputs

        def _inference(self, inputs: Any) -> Any:
            """With the moving statistics; only the inputs get a gradient.

            TensorFlow's own gradient also computes those of the frozen weights. For that it needs the inputs,
            which prevents fusion with the convolution before.
            """
            import tensorflow as tf

            gamma, beta, mean, variance = (
                tf.convert_to_tensor(value)
                for value in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
            )

            @tf.custom_gradient
            def normalized(values: Any) -> Any:
                outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
                    values, gamma, beta, mean=mean, variance=variance, epsilon=self.epsilon, is_training=False
                )
                scale = gamma * tf.math.rsqrt(variance + self.epsilon)
                return outputs, lambda gradient: gradient * tf.cast(scale, gradient.dtype)

            return normalized(inputs)

        def _update(self, average: Any, value: Any) -> None:
            average.assign(average * self.momentum + value * (1.0 - self.momentum))

    return FusedBatchNormalization
