"""The models that are served: one that does nearly nothing, one that takes its time, one for images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def tiny_module(scale: float = 2.0) -> Any:
    """A tf.Module, x: float32 (N, 4) -> output_0: float32 (N, 4)."""
    import tensorflow as tf

    class Tiny(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(scale)

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            return x * self.scale

    return Tiny()


def mean_module() -> Any:
    """A tf.Module, image: uint8 (N, H, W, 3) -> output_0: float32 (N, 3): nearly no work on an image."""
    import tensorflow as tf

    class Mean(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")])
        def __call__(self, image: Any) -> Any:
            return tf.reduce_mean(tf.cast(image, tf.float32), [1, 2])

    return Mean()


def save(module: Any, folder: Path) -> Path:
    """A module as a SavedModel whose default signature is its call."""
    import tensorflow as tf

    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return folder


def save_in_mlflow(module: Any, folder: Path, rows: np.ndarray[Any, Any]) -> Path:
    """The same module as MLflow's own TensorFlow flavour saves it. rows: an example of its input."""
    import mlflow.tensorflow
    from mlflow.models import infer_signature

    signature = infer_signature(rows, np.asarray(module(rows)))
    mlflow.tensorflow.save_model(module, str(folder), signature=signature)
    return folder


def slow(folder: Path, size_px: int = 128, channels: int = 96) -> Path:
    """A convolutional network on uint8 (N, H, W, 3), at least 5 ms an image on one core.

    Its work an image falls as the batch grows, as that of real networks does: three 3x3 convolutions,
    then two wide dense layers whose weights are read once a batch.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    module = tf.Module()
    module.weights = [
        tf.Variable(rng.normal(0, 0.05, shape).astype(np.float32))
        for shape in ((3, 3, 3, channels), (3, 3, channels, channels), (3, 3, channels, channels))
    ]
    flat = (size_px // 8) ** 2 * channels
    module.dense = [
        tf.Variable(rng.normal(0, 0.02, (flat, 1024)).astype(np.float32)),
        tf.Variable(rng.normal(0, 0.02, (1024, 10)).astype(np.float32)),
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, name="image")])
    def predict(image: Any) -> dict[str, Any]:
        x = tf.cast(image, tf.float32) / 255
        for kernel in module.weights:
            x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME")), 2, 2, "SAME")
        x = tf.nn.relu(tf.reshape(x, [-1, flat]) @ module.dense[0])
        return {"probabilities": tf.nn.softmax(x @ module.dense[1])}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": predict})
    return folder


def images(folder: Path, size_px: int = 96) -> Path:
    """Encoded images, decoded and resized in the graph by what pergola's exports use, and little else.

    A second signature, "tensor", takes the pixels at the network's size: what is left without decoding.
    """
    import tensorflow as tf

    from pergola.components.imaging import decode

    rng = np.random.default_rng(0)
    module = tf.Module()
    module.kernel = tf.Variable(rng.normal(0, 0.1, (3, 3, 3, 8)).astype(np.float32))
    module.dense = tf.Variable(rng.normal(0, 0.1, (8, 10)).astype(np.float32))

    def answer(pixels: Any) -> dict[str, Any]:
        x = tf.nn.relu(tf.nn.conv2d(tf.cast(pixels, tf.float32) / 255, module.kernel, 2, "SAME"))
        return {"probabilities": tf.nn.softmax(tf.reduce_mean(x, [1, 2]) @ module.dense)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    def encoded(image: Any) -> dict[str, Any]:
        return answer(decode.load_batch(image, size_px, size_px, 3))

    @tf.function(input_signature=[tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, name="image")])
    def tensor(image: Any) -> dict[str, Any]:
        return answer(image)

    tf.saved_model.save(module, str(folder), signatures={"serving_default": encoded, "tensor": tensor})
    return folder
