"""The small model that judges labels: no leak across folds, its kernel, probabilities that fit."""

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics.pairwise import rbf_kernel

from pergola.components.stats import out_of_fold
from pergola.components.stats.cross_validation import group_folds


def test_probabilities_never_rest_on_a_group_that_was_seen():
    """Labels are chance and copies are exact: only a leak across folds could do better than chance."""
    rng = np.random.default_rng(0)
    single, truth = rng.normal(size=(200, 100)), rng.integers(0, 2, 200)
    points, labels, groups = (np.repeat(a, 3, axis=0) for a in (single, truth, np.arange(200)))
    held = out_of_fold.probabilities(points, labels, groups, folds=5, seed=0)
    leaked = out_of_fold.probabilities(points, labels, np.arange(600), folds=5, seed=0)
    assert np.mean(held.argmax(axis=1) == labels) < 0.6
    assert np.mean(leaked.argmax(axis=1) == labels) > 0.9
    assert np.allclose(held.sum(axis=1), 1)


def test_cosines_stand_for_the_gaussian_kernel():
    points = np.random.default_rng(0).normal(size=(300, 5))
    features = out_of_fold.cosines(points, seed=0)
    apart = ((points[:, None] - points) ** 2).sum(axis=2)
    width = np.median(apart[~np.eye(300, dtype=bool)])
    assert np.abs(features @ features.T - rbf_kernel(points, gamma=1 / width)).mean() < 0.05


def test_ridge_scores_are_those_of_kernel_ridge():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    points = rng.normal(size=(240, 4)) + 2 * np.eye(3, 4)[labels]
    ours = out_of_fold.ridge_scores(points, labels, np.arange(240), folds=4, seed=0)
    apart = ((points[:, None] - points) ** 2).sum(axis=2)
    gamma = 1 / np.median(apart[~np.eye(240, dtype=bool)])
    theirs = np.zeros_like(ours)
    for seen, unseen in group_folds(labels, np.arange(240), 4, 0):
        model = KernelRidge(alpha=0.1, kernel="rbf", gamma=gamma)
        mean = np.eye(3)[labels[seen]].mean(axis=0)
        theirs[unseen] = (
            model.fit(points[seen], np.eye(3)[labels[seen]] - mean).predict(points[unseen]) + mean
        )
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97
    assert np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1)) > 0.95


@pytest.mark.parametrize("factor", [3.0, 12.0])
def test_temperature_finds_what_scores_were_drawn_with(factor):
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=(4000, 4))
    chances = np.exp(factor * scores)
    chances /= chances.sum(axis=1, keepdims=True)
    labels = (rng.random((4000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    assert out_of_fold.temperature(scores, labels) == pytest.approx(factor, rel=0.1)
