"""The networks on which beginners learn image classification, as their sources give them.

CIFAR-10 at 32x32x3: `mlp`, `cnn1`, `cnn2`, `cnn_pool`, `cnn_dropout`, `cnn_batchnorm`; the published test
accuracies are 46.96, 59.11, 61.07, 67.94 and 72.11 % for the first five. Fashion-MNIST at 28x28x1: `dense`,
and `fashion_cnn` with 90.54 % (after Géron, "Hands-On Machine Learning", chapter 14). For teaching:
`minimal_cnn` and `dropout_cnn` (the MNIST example of keras.io, without and with dropout) and
`batchnorm_cnn` at 64x64x3. Each takes images of any size; the counts of parameters are those at its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pergola.components.training.models.layers import batch_norm

Features = Callable[[Any, bool], Any]


def mlp(x: Any, fused: bool) -> Any:
    """Dense 100, 50: 312,860 parameters with ten classes."""
    return _dense(x, 100, 50)


def cnn1(x: Any, fused: bool) -> Any:
    """One convolution, then the dense layers."""
    return _dense(_convolve(x, 32), 100, 50)


def cnn2(x: Any, fused: bool) -> Any:
    """Two convolutions, then the dense layers."""
    return _dense(_convolve(_convolve(x, 32), 64), 100, 50)


def cnn_pool(x: Any, fused: bool) -> Any:
    """Each convolution is followed by max pooling."""
    return _dense(_pool(_convolve(_pool(_convolve(x, 32)), 64)), 100, 50)


def cnn_dropout(x: Any, fused: bool) -> Any:
    """Max pooling, and dropout of 0.3 after each convolution."""
    for filters in (32, 64):
        x = _drop(_pool(_convolve(x, filters)), 0.3)
    return _dense(x, 100, 50)


def cnn_batchnorm(x: Any, fused: bool) -> Any:
    """As cnn_dropout, with batch normalisation after each convolution."""
    for filters in (32, 64):
        x = _drop(_pool(batch_norm(fused)(_convolve(x, filters))), 0.3)
    return _dense(x, 100, 50)


def dense(x: Any, fused: bool) -> Any:
    """One hidden layer of 360: 286,210 parameters with ten classes."""
    return _dense(x, 360)


def fashion_cnn(x: Any, fused: bool) -> Any:
    """64 of 7x7, pool, 2 x 128, pool, 2 x 256, pool, dense 128 and 64: 1,413,834 parameters."""
    x = _pool(_convolve(x, 64, kernel=7))
    for filters in (128, 256):
        x = _pool(_convolve(_convolve(x, filters), filters))
    return _drop(_dense(_drop(_dense(x, 128), 0.5), 64), 0.5)


def minimal_cnn(x: Any, fused: bool) -> Any:
    """32, pool, 64, pool, flatten: 34,826 parameters with ten classes."""
    return _flatten(_pool(_convolve(_pool(_convolve(x, 32, padding="valid")), 64, padding="valid")))


def dropout_cnn(x: Any, fused: bool) -> Any:
    """minimal_cnn with a dropout of 0.5 before the last layer."""
    return _drop(minimal_cnn(x, fused), 0.5)


def batchnorm_cnn(x: Any, fused: bool) -> Any:
    """2 x 32, pool, 2 x 64, pool, batch normalisation after each convolution, dropout of 0.5."""
    for filters in (32, 64):
        x = batch_norm(fused)(_convolve(x, filters))
        x = _pool(batch_norm(fused)(_convolve(x, filters)))
    return _drop(_flatten(x), 0.5)


LADDER: dict[str, Features] = {
    "mlp": mlp,
    "cnn1": cnn1,
    "cnn2": cnn2,
    "cnn_pool": cnn_pool,
    "cnn_dropout": cnn_dropout,
    "cnn_batchnorm": cnn_batchnorm,
    "dense": dense,
    "fashion_cnn": fashion_cnn,
    "minimal_cnn": minimal_cnn,
    "dropout_cnn": dropout_cnn,
    "batchnorm_cnn": batchnorm_cnn,
}


def _convolve(x: Any, filters: int, kernel: int = 3, padding: str = "same") -> Any:
    from keras import layers

    padding = padding if min(x.shape[1:3]) >= kernel else "same"
    return layers.Conv2D(filters, kernel, padding=padding, activation="relu")(x)


def _pool(x: Any) -> Any:
    from keras import layers

    return layers.MaxPooling2D(2)(x) if min(x.shape[1:3]) >= 2 else x


def _drop(x: Any, share: float) -> Any:
    from keras import layers

    return layers.Dropout(share)(x)


def _flatten(x: Any) -> Any:
    from keras import layers

    return layers.Flatten()(x) if len(x.shape) > 2 else x


def _dense(x: Any, *widths: int) -> Any:
    from keras import layers

    x = _flatten(x)
    for width in widths:
        x = layers.Dense(width, activation="relu")(x)
    return x
