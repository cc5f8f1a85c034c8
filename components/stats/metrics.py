"""Metrics of a classifier, in pure NumPy.

Everywhere `probabilities` is float (N, C), rows sum to 1; `labels` and `predicted` are int (N,) with
values 0 to C - 1; N is at least 1. Names and edge cases are scikit-learn's, unless noted otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1, each float64 (C,), and support, int64 (C,). Undefined is 0."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints
    predicted: Ints  # images predicted as this class


def accuracy(predicted: Ints, labels: Ints) -> float:
    """Share of correctly classified images, in [0, 1]."""
    return float(np.mean(predicted == labels))


def top_k_accuracy(probabilities: Floats, labels: Ints, k: int) -> float:
    """Share of images whose class is among the k most likely, in [0, 1].

    Equal probabilities are ranked by index, lowest first, as argmax does.
    """
    if k >= probabilities.shape[1]:
        return 1.0
    own = probabilities[np.arange(len(labels)), labels][:, None]
    before = np.arange(probabilities.shape[1])[None, :] < labels[:, None]
    rank = ((probabilities > own) | ((probabilities == own) & before)).sum(axis=1)
    return float(np.mean(rank < k))


def confusion_matrix(predicted: Ints, labels: Ints, num_classes: int) -> Ints:
    """Counts, int64 (C, C), indexed [true class, predicted class]."""
    cells = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion: Ints) -> ClassScores:
    """Precision, recall, F1 and support of each class, from a confusion matrix."""
    hits = np.diag(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    return ClassScores(precision, recall, _ratio(2 * hits, support + predicted), support, predicted)


def macro_f1(confusion: Ints) -> float:
    """Mean of F1 over the classes that have images, in [0, 1].

    Unlike scikit-learn's it leaves out a class that occurs as a prediction only: no image tests its F1.
    """
    scores = class_scores(confusion)
    return float(scores.f1[scores.support > 0].mean())


def log_loss(probabilities: Floats, labels: Ints) -> float:
    """Mean of -ln(probability of the true class), at least 0.

    Rows are scaled to sum to 1 and clipped at float32's resolution, so that one confident error costs
    about 16 and not infinity.
    """
    own = probabilities[np.arange(len(labels)), labels] / probabilities.sum(axis=1)
    smallest = float(np.finfo(np.float32).eps)
    return float(-np.log(np.clip(own.astype(np.float64), smallest, 1 - smallest)).mean())


def wilson_interval(successes: float, trials: int, confidence: float = 0.95) -> Interval:
    """Confidence interval of a share, within [0, 1]; (0, 1) without trials.

    Source: Wilson 1927; Brown, Cai, DasGupta 2001 recommend it for small samples.
    """
    if trials <= 0:
        return (0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = successes / trials, 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= trials else min(1.0, centre + half)
    return (low, high)


def quantile_interval(values: Sequence[float], share: float, confidence: float = 0.95) -> Interval:
    """Confidence interval of a quantile by order statistics; its ends are observed values.

    Source: Conover 1999, section 3.2. For few values and a quantile near 0 or 1 one end is the extreme value,
    and the true quantile may be beyond it.  share: 0.95 for the 95th percentile.
    """
    if not len(values):
        raise ValueError("Expected at least one value, got none.")
    count, tail = len(values), (1 - confidence) / 2
    ks = np.arange(count + 1)
    logs = np.array([math.lgamma(k + 1) + math.lgamma(count - k + 1) for k in ks])
    below = np.exp(math.lgamma(count + 1) - logs + ks * math.log(share) + (count - ks) * math.log1p(-share))
    chance = below.cumsum()  # that at most k of the values lie below the quantile
    low, high = int(np.searchsorted(chance, tail)), int(np.searchsorted(chance, 1 - tail)) + 1
    rising = sorted(values)
    return (float(rising[max(low - 1, 0)]), float(rising[min(high - 1, count - 1)]))


def difference_interval(
    first: float, num_first: int, second: float, num_second: int, confidence: float = 0.95
) -> Interval:
    """Confidence interval of the difference of two shares of different images, `first - second`, in [-1, 1].

    Source: Newcombe 1998, method 10 (score intervals combined). Needs at least one image each.
    """
    low_1, high_1 = wilson_interval(first * num_first, num_first, confidence)
    low_2, high_2 = wilson_interval(second * num_second, num_second, confidence)
    gap = first - second
    return (
        gap - math.hypot(first - low_1, high_2 - second),
        gap + math.hypot(high_1 - first, second - low_2),
    )


def bootstrap_macro_f1(
    predicted: Ints, labels: Ints, num_classes: int, *, seed: int, num_samples: int = 1000
) -> Interval:
    """95% interval of the macro F1, by drawing images with replacement (percentile bootstrap).

    Without errors the bootstrap has no variance, so the interval of the accuracy is used instead. Images of
    one cell of the confusion matrix are interchangeable, so cells are drawn, not images.
    """
    if (predicted == labels).all():
        return wilson_interval(len(labels), len(labels))
    cells = confusion_matrix(predicted, labels, num_classes)
    truth, answer = np.nonzero(cells)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(labels), cells[truth, answer] / len(labels), size=num_samples)
    values = np.empty(num_samples)
    for index, draw in enumerate(draws):
        hits = np.bincount(truth, draw * (truth == answer), num_classes)
        support = np.bincount(truth, draw, num_classes)
        both = (support + np.bincount(answer, draw, num_classes))[support > 0]
        values[index] = (2 * hits[support > 0] / both).mean()
    low, high = np.quantile(values, [0.025, 0.975])
    return (float(low), float(high))


def _ratio(top: Floats, bottom: Ints | Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros_like(top, dtype=np.float64), where=bottom > 0)
