"""Logits, loss and accuracy of a network on decoded images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Forward = Callable[[NDArray[np.float32]], Any]  # images (N, H, W, C) to logits (N, classes)


def forward_of(network: Any) -> Forward:
    """The forward pass, traced once: Keras's own is traced again after each `compile`."""
    import tensorflow as tf

    return tf.function(lambda images: network(images, training=False), autograph=False)


def validate(
    forward: Forward, images: NDArray[np.uint8], labels: NDArray[np.int64], batch_size: int
) -> dict[str, float]:
    """val_loss (cross-entropy in nats) and val_accuracy; empty without images."""
    if not len(labels):
        return {}
    logits = predict(forward, images, batch_size).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    losses = log_sum - logits[np.arange(len(labels)), labels]
    accuracy = float((logits.argmax(1) == labels).mean())
    return {"val_loss": float(losses.mean()), "val_accuracy": accuracy}


def predict(forward: Forward, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Logits float32 (N, classes), computed in batches of at most `batch_size` images.

    All batches have the same size, about equal parts of N, so the forward pass is traced only once.
    """
    batch_size = math.ceil(len(images) / math.ceil(len(images) / batch_size))
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].astype(np.float32)
        missing = batch_size - len(batch)
        padded = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
        outputs.append(np.asarray(forward(padded))[: len(batch)])
    return np.concatenate(outputs)
