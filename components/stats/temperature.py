"""Temperature scaling: probabilities whose confidence matches accuracy.

Everywhere `probabilities` is float (N, C), rows sum to 1, and `labels` int (N,). Sources: Guo et al. 2017,
and Platt 1999 for targets below 1, without which a few images, all classified correctly, would make a model
infinitely confident.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.record import Record

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class Temperature(Record):
    """What a model's log-probabilities are divided by, fitted on the validation split."""

    FILE: ClassVar[str] = "temperature.json"

    value: float  # above 1 makes a model less confident, below 1 more
    num_images: int
    log_loss_before: float
    log_loss_after: float


def fit_temperature(probabilities: Floats, labels: Ints, *, doubt: float = 0.0) -> Temperature:
    """The temperature with the lowest log loss on these images, which must not have been trained on.

    Logits may be given as their softmax, with the same result. The loss is convex in 1 / temperature, so
    there is one minimum; it is searched between 0.05 and 20. A temperature never changes the likeliest class.
    doubt: number of additional images that are assumed to be classified half right, half wrong. With 1 the
    true class of N images has the target (N + 1) / (N + 2), as in Platt's method; this matters for small N.
    """
    from scipy.optimize import minimize_scalar

    check_probabilities(probabilities, labels)
    logits = to_logits(probabilities)
    smoothing = doubt / (len(labels) + 2 * doubt)

    def loss(inverse: float) -> float:
        return log_loss(logits * inverse, labels, smoothing)

    bounds = (1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE)
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    inverse = float(best.x) if best.fun < loss(1.0) else 1.0
    before, after = (log_loss(logits * scale, labels) for scale in (1.0, inverse))
    return Temperature(1 / inverse, len(labels), before, after)


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """softmax(ln(probabilities) / temperature), float64 (N, C)."""
    return np.exp(_log_softmax(to_logits(probabilities) / temperature))


def to_logits(probabilities: Floats) -> Floats:
    """ln, with 0 replaced by the smallest float32, so that a confident error stays finite."""
    return np.log(np.maximum(probabilities.astype(np.float64), float(np.finfo(np.float32).tiny)))


def log_loss(logits: Floats, labels: Ints, smoothing: float = 0.0) -> float:
    """Mean cross-entropy; the true class has the target 1 - smoothing, the others share the rest evenly."""
    scores = _log_softmax(logits)
    own = scores[np.arange(len(labels)), labels]
    others = (scores.sum(axis=1) - own) / max(1, scores.shape[1] - 1)
    return float(-((1 - smoothing) * own + smoothing * others).mean())


def check_probabilities(probabilities: Floats, labels: Ints) -> None:
    """Raises ValueError unless there is a row of finite probabilities for each label."""
    if probabilities.ndim != 2 or len(probabilities) != len(labels) or not len(labels):
        raise ValueError(
            f"Wanted a row of probabilities a label, got shapes {probabilities.shape} and {labels.shape}."
        )
    if not math.isfinite(float(probabilities.sum())) or float(probabilities.min()) < 0:
        raise ValueError("Wanted probabilities, got negative or infinite numbers.")


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
