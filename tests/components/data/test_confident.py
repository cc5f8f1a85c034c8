"""Confident learning: the paper's definition by hand, known noise, and its authors' package as a peer."""

import warnings

import numpy as np
import pytest
from scipy.special import softmax

from pergola.components.stats import confident_learning

# Northcutt et al. 2021, section 3.1, by hand: the thresholds are t = (0.7, 0.6). Row 2 lies above t_1 alone,
# so it counts as a 0 that is a 1; row 5 above t_0 alone, a 1 that is a 0. The joint is ((2, 1), (1, 2)).
PROBABILITIES = np.array([[0.95, 0.05], [0.9, 0.1], [0.25, 0.75], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def noisy(count: int, classes: int, share: float, seed: int):
    """Probabilities that know the truth well, labels of which a share is wrong, and which those are."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, count)
    probabilities = softmax(rng.normal(size=(count, classes)) + 5 * np.eye(classes)[truth], axis=1)
    wrong = rng.random(count) < share
    labels = np.where(wrong, (truth + rng.integers(1, classes, count)) % classes, truth)
    return labels, probabilities, wrong


def test_confident_joint_follows_the_published_definition():
    assert confident_learning.confident_joint(LABELS, PROBABILITIES).tolist() == [[2, 1], [1, 2]]
    assert confident_learning.flagged(LABELS, PROBABILITIES).tolist() == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    quality = confident_learning.self_confidence(LABELS, PROBABILITIES)
    assert quality.tolist() == [0.95, 0.9, 0.25, 0.9, 0.8, 0.1]


@pytest.mark.parametrize(("classes", "share"), [(2, 0.1), (5, 0.05), (12, 0.2)])
def test_confident_joint_finds_the_known_share_of_noise(classes, share):
    labels, probabilities, wrong = noisy(6000, classes, share, seed=0)
    joint = confident_learning.confident_joint(labels, probabilities)
    assert joint.sum(axis=1) == pytest.approx(np.bincount(labels))
    assert 1 - np.trace(joint) / len(labels) == pytest.approx(wrong.mean(), abs=0.03)
    found = confident_learning.flagged(labels, probabilities)
    assert (found & wrong).sum() > 0.85 * wrong.sum() and (found & wrong).sum() > 0.85 * found.sum()


def test_confident_learning_is_silent_where_all_agrees():
    labels = np.repeat(np.arange(4), 25)
    assert not confident_learning.flagged(labels, np.eye(4)[labels]).any()
    assert not confident_learning.flagged(
        labels, np.full((100, 4), 0.25)
    ).any()  # knows nothing, says nothing


@pytest.mark.parametrize("seed", [0, 1])
def test_confident_learning_agrees_with_cleanlab(seed):
    cleanlab = pytest.importorskip("cleanlab", reason="cleanlab (AGPL) is a peer in tests only: uv sync")
    labels, probabilities, _ = noisy(3000, 6, 0.1, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = cleanlab.filter.find_label_issues(labels, probabilities, n_jobs=1)
        quality = cleanlab.rank.get_label_quality_scores(labels, probabilities, method="self_confidence")
        joint = cleanlab.count.compute_confident_joint(labels, probabilities, calibrate=True)
    ours = confident_learning.flagged(labels, probabilities)
    assert confident_learning.self_confidence(labels, probabilities) == pytest.approx(quality)
    assert (
        np.abs(confident_learning.confident_joint(labels, probabilities) - joint).max() <= 1
    )  # theirs is rounded
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98
