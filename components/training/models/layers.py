"""Layers that train faster than Keras's own and become Keras's own when they are saved.

Keras 3 computes batch normalisation from single operations. In bfloat16 on two CPU cores that took
two thirds of a convolutional network's training time; TensorFlow's fused kernel takes a tenth
(docs/training-performance.md). So networks are built twice from the same code: `fused=True` to train,
`fused=False` to save. Both have the same weights in the same order.
"""

from __future__ import annotations

from typing import Any

MOMENTUM, EPSILON = 0.9, 1e-3


def batch_norm(fused: bool, **options: Any) -> Any:
    """A batch normalisation layer: fused for training with TensorFlow, else Keras's own."""
    import keras

    options = {"momentum": MOMENTUM, "epsilon": EPSILON, **options}
    if fused and keras.backend.backend() == "tensorflow":
        return _fused_class()(dtype="float32", autocast=False, **options)
    return keras.layers.BatchNormalization(**options)


def fused(network: Any) -> Any:
    """A copy of a network with the same weights, whose batch normalisation is fused where it can be.

    Inputs of those layers are feature maps (N, H, W, C).
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


_FUSED: list[type] = []


def _fused_class() -> type:
    """The fused layer's class, made once, when Keras is there."""
    import keras

    if _FUSED:
        return _FUSED[0]

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        """Keras's layer on feature maps (N, H, W, C), whose training pass is one kernel.

        Inputs keep their dtype (bfloat16 stays bfloat16); weights and statistics are float32.
        """

        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            import tensorflow as tf

            if not (training and self.trainable):
                return self._in_inference_mode(inputs)
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                tf.convert_to_tensor(self.gamma),
                tf.convert_to_tensor(self.beta),
                epsilon=self.epsilon,
                is_training=True,
            )
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
            return outputs

        def _in_inference_mode(self, inputs: Any) -> Any:
            """By the statistics that are there; only the inputs get a gradient.

            TensorFlow's own gradient also sums up those of weights that do not learn, needs the inputs for
            that, and so keeps them from being fused with the convolution that made them.
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

        def _move(self, average: Any, value: Any) -> None:
            average.assign(average * self.momentum + value * (1.0 - self.momentum))

    _FUSED.append(FusedBatchNormalization)
    return FusedBatchNormalization
