"""Textbook networks for image classification, as their sources define them, as lists of layers.

Published test accuracies on CIFAR-10: mlp 46.96, cnn1 59.11, cnn2 61.07, cnn_pool 67.94, cnn_dropout
72.11 %. fashion_cnn (after Géron, "Hands-On Machine Learning", chapter 14): 90.54 % on Fashion-MNIST.
minimal_cnn and dropout_cnn are the MNIST example of keras.io without and with dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pergola.components.training.models.layers import batch_norm

Layer = Callable[
    [Any, bool], Any
]  # the tensor before it, and whether layers are fused -> the tensor after it


@dataclass(frozen=True)
class Baseline:
    """A network without its last layer. It takes images of any size."""

    side: int  # pixels, of the images for which it was designed
    channels: int
    about: str  # parameter counts are those for ten classes
    layers: tuple[Layer, ...]


def baseline_features(name: str, x: Any, fused: bool) -> Any:
    """Features (N, D) of scaled images (N, H, W, C)."""
    for layer in BASELINES[name].layers:
        x = layer(x, fused)
    return x


def _conv(filters: int, kernel: int = 3, padding: str = "same") -> Layer:
    def apply(x: Any, fused: bool) -> Any:
        from keras import layers

        fits = padding if min(x.shape[1:3]) >= kernel else "same"
        return layers.Conv2D(filters, kernel, padding=fits, activation="relu")(x)

    return apply


def _dense(units: int) -> Layer:
    return _keras("Dense", units, activation="relu")


def _dropout(rate: float) -> Layer:
    return _keras("Dropout", rate)


def _keras(kind: str, *arguments: Any, **options: Any) -> Layer:
    """One of Keras's layers, which is imported when the network is built."""

    def apply(x: Any, fused: bool) -> Any:
        from keras import layers

        return getattr(layers, kind)(*arguments, **options)(x)

    return apply


def _pool(x: Any, fused: bool) -> Any:
    from keras import layers

    return layers.MaxPooling2D(2)(x) if min(x.shape[1:3]) >= 2 else x


def _normalize(x: Any, fused: bool) -> Any:
    return batch_norm(fused)(x)


_FLATTEN = _keras("Flatten")
_HEAD = (_FLATTEN, _dense(100), _dense(50))
_VALID_CONVS = (_conv(32, padding="valid"), _pool, _conv(64, padding="valid"), _pool, _FLATTEN)

BASELINES = {
    "mlp": Baseline(32, 3, "Dense 100, 50: 312,860 parameters.", _HEAD),
    "cnn1": Baseline(32, 3, "One convolution, then the dense layers of mlp.", (_conv(32), *_HEAD)),
    "cnn2": Baseline(32, 3, "Two convolutions, then the dense layers.", (_conv(32), _conv(64), *_HEAD)),
    "cnn_pool": Baseline(
        32, 3, "Max pooling after each convolution.", (_conv(32), _pool, _conv(64), _pool, *_HEAD)
    ),
    "cnn_dropout": Baseline(
        32, 3, "Max pooling, and dropout of 0.3, after each convolution.",
        (_conv(32), _pool, _dropout(0.3), _conv(64), _pool, _dropout(0.3), *_HEAD),
    ),
    "cnn_batchnorm": Baseline(
        32, 3, "cnn_dropout with batch normalisation after each convolution.",
        (_conv(32), _normalize, _pool, _dropout(0.3), _conv(64), _normalize, _pool, _dropout(0.3), *_HEAD),
    ),
    "dense": Baseline(28, 1, "One hidden layer of 360: 286,210 parameters.", (_FLATTEN, _dense(360))),
    "fashion_cnn": Baseline(
        28, 1, "64 filters of 7x7, pool, 2 x 128, pool, 2 x 256, pool, dense 128, 64: 1,413,834 parameters.",
        (_conv(64, kernel=7), _pool, _conv(128), _conv(128), _pool, _conv(256), _conv(256), _pool,
         _FLATTEN, _dense(128), _dropout(0.5), _dense(64), _dropout(0.5)),
    ),
    "minimal_cnn": Baseline(28, 1, "32, pool, 64, pool, flatten: 34,826 parameters.", _VALID_CONVS),
    "dropout_cnn": Baseline(
        28, 1, "minimal_cnn with dropout of 0.5 before the last layer.", (*_VALID_CONVS, _dropout(0.5))
    ),
    "batchnorm_cnn": Baseline(
        64, 3, "2 x 32, pool, 2 x 64, pool, with batch normalisation, and dropout of 0.5.",
        (_conv(32), _normalize, _conv(32), _normalize, _pool,
         _conv(64), _normalize, _conv(64), _normalize, _pool, _FLATTEN, _dropout(0.5)),
    ),
}  # fmt: skip
