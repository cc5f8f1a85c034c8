"""Temperature scaling: probabilities whose confidence matches accuracy.

Everywhere `probabilities` is float (N, C), rows sum to 1, and `labels` int (N,). Sources: Guo et al. 2017; a
normal prior on ln(temperature), without which a few images, all classified correctly, would make a model
infinitely confident; Stone 1974 for the choice by held-out loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.record import Record

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


PRIOR = 0.35  # standard deviation of ln(temperature) among networks: half of them are between 0.8 and 1.27
FOLDS = 10
CAUTION = 1.0  # standard errors by which the held-out gain must be above 0
_GRID = np.linspace(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE), 121)  # of ln(temperature)


@dataclass(frozen=True)
class Temperature(Record):
    """What a model's log-probabilities are divided by, fitted on the validation split."""

    FILE: ClassVar[str] = "temperature.json"

    value: float  # above 1 makes a model less confident, below 1 more
    num_images: int
    log_loss_before: float
    log_loss_after: float
    fitted: float | None = None  # what was fitted; `value` is 1 where this was not shown to help
    gain: float | None = None  # mean loss saved on images that the temperature was not fitted on
    gain_error: float | None = None  # standard error of the gain

    def __str__(self) -> str:
        if self.fitted is None or self.gain is None or self.gain_error is None:
            return f"temperature {self.value:.2f}"
        held_out = (
            f"held-out log loss {'falls' if self.gain > 0 else 'rises'} by {abs(self.gain):.2g} ± "
            f"{self.gain_error:.1g} on {self.num_images:,} validation images"
        )
        if self.value != 1:
            return f"temperature {self.value:.2f}: {held_out}"
        return f"no temperature: {self.fitted:.2f} is not shown to help, {held_out}"


def choose_temperature(probabilities: Floats, labels: Ints) -> Temperature:
    """The most likely temperature given these images and the prior, or 1 unless it is shown to help.

    It helps if the log loss of images that it was not fitted on falls by more than its standard error, in
    10-fold cross-validation. The images must not have been trained on.
    """
    fitted = fit_temperature(probabilities, labels, prior=PRIOR)
    count = len(labels)
    losses = _losses(to_logits(probabilities), labels)
    fold = np.arange(count) % min(FOLDS, count)
    gains = np.zeros(count)
    for number in range(fold.max() + 1) if count > 1 else ():
        out = fold == number
        best = int((losses[~out].sum(axis=0) + _penalty(_GRID, PRIOR)).argmin())
        gains[out] = losses[out, len(_GRID) // 2] - losses[out, best]
    gain, error = float(gains.mean()), float(gains.std(ddof=min(1, count - 1)) / math.sqrt(count))
    if gain > CAUTION * error:
        return replace(fitted, gain=gain, gain_error=error)
    return replace(fitted, value=1.0, log_loss_after=fitted.log_loss_before, gain=gain, gain_error=error)


def fit_temperature(probabilities: Floats, labels: Ints, *, prior: float = math.inf) -> Temperature:
    """The temperature with the lowest log loss on these images, which must not have been trained on.

    Logits may be given as their softmax, with the same result. It is searched between 0.05 and 20. A
    temperature never changes the likeliest class.
    prior: standard deviation of ln(temperature) around 0, before any image was seen; infinite: none.
    """
    from scipy.optimize import minimize_scalar

    check_probabilities(probabilities, labels)
    logits, count = to_logits(probabilities), len(labels)

    def loss(log: float) -> float:
        return log_loss(logits * math.exp(-log), labels) + float(_penalty(log, prior)) / count

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    value = math.exp(best.x) if best.fun < loss(0.0) else 1.0
    before, after = (log_loss(logits / scale, labels) for scale in (1.0, value))
    return Temperature(value, count, before, after, fitted=value)


def apply_temperature(probabilities: Floats, temperature: float) -> Floats:
    """softmax(ln(probabilities) / temperature), float64 (N, C)."""
    return np.exp(_log_softmax(to_logits(probabilities) / temperature))


def to_logits(probabilities: Floats) -> Floats:
    """ln, with 0 replaced by the smallest float32, so that a confident error stays finite."""
    return np.log(np.maximum(probabilities.astype(np.float64), float(np.finfo(np.float32).tiny)))


def log_loss(logits: Floats, labels: Ints) -> float:
    """Mean cross-entropy."""
    return float(-_log_softmax(logits)[np.arange(len(labels)), labels].mean())


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


def _losses(logits: Floats, labels: Ints) -> Floats:
    """Cross-entropy of each image at each temperature of the grid, (N, G)."""
    own = np.arange(len(labels)), labels
    return np.stack([-_log_softmax(logits * math.exp(-log))[own] for log in _GRID], axis=1)


def _penalty(log: float | Floats, prior: float) -> Floats:
    """What the prior adds to the sum of losses."""
    return np.asarray(0.5 * (log / prior) ** 2)
