"""Is a model right as often as it says? How far confidence is from accuracy.

Everywhere `probabilities` is float (N, C), rows sum to 1, and `labels` int (N,). Confidence is a row's
largest probability. Sources: Guo et al. 2017 (expected calibration error), Naeini et al. 2015 (equal width),
Nixon et al. 2019 (equal mass), Bröcker and Smith 2007 (what chance alone gives).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.record import Record
from pergola.components.stats.metrics import wilson_interval
from pergola.components.stats.temperature import apply_temperature, check_probabilities, log_loss, to_logits

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

EQUAL_WIDTH, EQUAL_MASS = "equal_width", "equal_mass"
NUM_BINS = 15
IN_A_BIN = 20  # images at least, of one part's figures: smaller bins measure chance


@dataclass(frozen=True)
class Bin:
    """Images of similar confidence."""

    low: float
    high: float
    num_images: int
    confidence: float  # mean; 0 when empty
    accuracy: float
    interval: tuple[float, float]  # 95%, of the accuracy


@dataclass(frozen=True)
class Calibration(Record):
    """The calibration of a model on one split."""

    FILE: ClassVar[str] = "calibration.json"

    num_images: int
    error: float  # expected calibration error, equal-mass bins, 0 to 1
    error_equal_width: float
    error_by_chance: float  # the mean error of a perfectly calibrated model with these confidences
    p_value: float  # probability that such a model has at least `error`
    gap: float  # mean confidence - accuracy, -1 to 1; above 0 is overconfident
    log_loss: float
    brier: float  # mean squared distance to the true class, 0 to 2
    bins: tuple[Bin, ...]  # equal mass, ascending
    interval: tuple[float, float] = (0.0, 1.0)  # 95%, of the error, bootstrap corrected for its bias
    temperature: float = 1.0  # the model divides its logits by this
    before: Calibration | None = None  # on the same images without temperature; None if it is 1


def calibration(
    probabilities: Floats,
    labels: Ints,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    num_bins: int | None = None,
    num_samples: int = 1000,
) -> Calibration:
    """The calibration on one split.

    num_bins: of equal mass; None for up to 15 of at least 20 images.
    temperature: the model divided its logits by it; unless it is 1, `before` is the calibration without it.
    Even a perfectly calibrated model has an error above 0, since bins are small: `error_by_chance` and
    `p_value` come from num_samples simulations of such a model with the same confidences.
    """
    check_probabilities(probabilities, labels)
    num_bins = num_bins or max(1, min(NUM_BINS, len(labels) // IN_A_BIN))
    confidence, correct = _confidence(probabilities, labels)
    groups = _groups(confidence, num_bins, EQUAL_MASS)
    error = _error(confidence, correct, groups)
    rng = np.random.default_rng(seed)
    by_chance = np.array(
        [
            _error(confidence, (rng.random(len(confidence)) < confidence).astype(np.float64), groups)
            for _ in range(num_samples)
        ]
    )
    before = None
    if temperature != 1:
        raw = apply_temperature(probabilities, 1 / temperature)
        before = calibration(raw, labels, seed=seed, num_bins=num_bins, num_samples=num_samples)
    truth = np.eye(probabilities.shape[1])[labels]
    return Calibration(
        num_images=len(labels),
        error=error,
        error_equal_width=expected_calibration_error(probabilities, labels, num_bins, EQUAL_WIDTH),
        error_by_chance=float(by_chance.mean()),
        p_value=float((1 + np.sum(by_chance >= error - 1e-12)) / (1 + num_samples)),
        gap=float(confidence.mean() - correct.mean()),
        log_loss=log_loss(to_logits(probabilities), labels),
        brier=float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        bins=reliability(probabilities, labels, num_bins, EQUAL_MASS),
        interval=_error_interval(confidence, correct, groups, error, rng, num_samples),
        temperature=temperature,
        before=before,
    )


def expected_calibration_error(
    probabilities: Floats, labels: Ints, num_bins: int = NUM_BINS, scheme: str = EQUAL_MASS
) -> float:
    """Mean over images of |accuracy - confidence| of the bin they are in, 0 to 1.

    scheme: "equal_mass" puts equally many images in each bin, so none is nearly empty; "equal_width" is the
    older definition, with bins (0, 1/n], (1/n, 2/n], …
    """
    confidence, correct = _confidence(probabilities, labels)
    return _error(confidence, correct, _groups(confidence, num_bins, scheme))


def reliability(
    probabilities: Floats, labels: Ints, num_bins: int = NUM_BINS, scheme: str = EQUAL_MASS
) -> tuple[Bin, ...]:
    """The bins of a reliability diagram, ascending, without empty bins."""
    confidence, correct = _confidence(probabilities, labels)
    groups = _groups(confidence, num_bins, scheme)
    bins = []
    for group in range(int(groups.max()) + 1):
        inside = groups == group
        count, hits = int(inside.sum()), int(correct[inside].sum())
        if not count:
            continue
        low, high = float(confidence[inside].min()), float(confidence[inside].max())
        if scheme == EQUAL_WIDTH:
            low, high = group / num_bins, (group + 1) / num_bins
        mean = float(confidence[inside].mean())
        bins.append(Bin(low, high, count, mean, hits / count, wilson_interval(hits, count)))
    return tuple(bins)


def _confidence(probabilities: Floats, labels: Ints) -> tuple[Floats, Floats]:
    confidence = np.minimum(probabilities.max(axis=1).astype(np.float64), 1.0)
    return confidence, (probabilities.argmax(axis=1) == labels).astype(np.float64)


def _groups(confidence: Floats, num_bins: int, scheme: str) -> Ints:
    """The bin of each image, int (N,). Equal confidences share a bin."""
    if scheme == EQUAL_WIDTH:
        return np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    if scheme != EQUAL_MASS:
        raise ValueError(f"Unknown binning scheme '{scheme}'. Expected {EQUAL_WIDTH} or {EQUAL_MASS}.")
    edges = np.sort(confidence)[(np.arange(1, num_bins) * len(confidence)) // num_bins]
    return np.searchsorted(np.unique(edges), confidence, side="right")


def _error(confidence: Floats, correct: Floats, groups: Ints) -> float:
    return float(np.abs(np.bincount(groups, weights=correct - confidence)).sum() / len(confidence))


def _error_interval(
    confidence: Floats,
    correct: Floats,
    groups: Ints,
    error: float,
    rng: np.random.Generator,
    num_samples: int,
) -> tuple[float, float]:
    """Basic bootstrap (Davison and Hinkley 1997, 5.2): resampling adds the same upward bias again that the
    small sample already has, so it is subtracted."""
    gaps, size = correct - confidence, len(confidence)
    values = np.empty(num_samples)
    for index in range(num_samples):
        drawn = rng.integers(0, size, size)
        values[index] = np.abs(np.bincount(groups[drawn], weights=gaps[drawn])).sum() / size
    low, high = np.quantile(values, [0.025, 0.975])
    return (float(np.clip(2 * error - high, 0, error)), float(np.clip(2 * error - low, error, 1)))
