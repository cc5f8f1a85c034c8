import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from pergola.components.stats import metrics


@pytest.fixture(scope="module", params=[(2, 7), (5, 200), (9, 61)], ids=str)
def answers(request):
    """probabilities, labels, predicted of a model that is right more often than not."""
    classes, n = request.param
    rng = np.random.default_rng(n)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), labels, probabilities.argmax(axis=1)


def test_accuracy_is_sklearns(answers):
    _, labels, predicted = answers
    assert metrics.accuracy(predicted, labels) == reference.accuracy_score(labels, predicted)


@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_top_k_is_sklearns(answers, k):
    probabilities, labels, _ = answers
    classes = probabilities.shape[1]
    if classes == 2 or k >= classes:
        wanted = 1.0 if k >= classes else metrics.accuracy(probabilities.argmax(axis=1), labels)
    else:
        wanted = reference.top_k_accuracy_score(labels, probabilities, k=k, labels=np.arange(classes))
    assert metrics.top_k_accuracy(probabilities, labels, k) == pytest.approx(wanted)


def test_top_1_agrees_with_argmax_on_ties():
    probabilities = np.full((3, 4), 0.25)
    labels = np.array([0, 1, 3])
    assert metrics.top_k_accuracy(probabilities, labels, 1) == pytest.approx(1 / 3)
    assert metrics.top_k_accuracy(probabilities, labels, 2) == pytest.approx(2 / 3)


def test_confusion_matrix_is_sklearns(answers):
    probabilities, labels, predicted = answers
    classes = probabilities.shape[1]
    wanted = reference.confusion_matrix(labels, predicted, labels=np.arange(classes))
    np.testing.assert_array_equal(metrics.confusion_matrix(predicted, labels, classes), wanted)


def test_class_scores_and_macro_f1_are_sklearns(answers):
    probabilities, labels, predicted = answers
    classes = np.arange(probabilities.shape[1])
    confusion = metrics.confusion_matrix(predicted, labels, len(classes))
    ours = metrics.class_scores(confusion)
    wanted = reference.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    for got, want in zip((ours.precision, ours.recall, ours.f1, ours.support), wanted, strict=True):
        np.testing.assert_allclose(got, want)
    tested = np.unique(labels)
    assert metrics.macro_f1(confusion) == pytest.approx(
        reference.f1_score(labels, predicted, labels=tested, average="macro", zero_division=0)
    )


def test_macro_f1_leaves_out_a_class_without_an_image():
    confusion = np.array([[3, 0, 1], [0, 4, 0], [0, 0, 0]])
    assert metrics.macro_f1(confusion) == pytest.approx((6 / 7 + 1) / 2)
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 2, 1, 1, 1, 1])
    low, high = metrics.bootstrap_macro_f1(predicted, labels, 3, seed=0)
    assert low > 0.6 and high == 1  # with the third class it would never be above 2 / 3


def test_class_scores_of_a_class_that_never_occurs_are_zero():
    scores = metrics.class_scores(np.array([[3, 0, 0], [1, 2, 0], [0, 0, 0]]))
    assert (scores.precision[2], scores.recall[2], scores.f1[2], scores.support[2]) == (0, 0, 0, 0)


def test_log_loss_is_sklearns(answers):
    probabilities, labels, _ = answers
    wanted = reference.log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1]))
    assert metrics.log_loss(probabilities, labels) == pytest.approx(wanted, rel=1e-5)


def test_log_loss_of_a_sure_error_is_finite():
    loss = metrics.log_loss(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    assert loss == pytest.approx(-math.log(np.finfo(np.float32).eps))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 7), (350, 360), (1, 1)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_wilson_interval_is_scipys(successes, trials, confidence):
    wanted = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert metrics.wilson_interval(successes, trials, confidence) == pytest.approx((wanted.low, wanted.high))


def test_wilson_interval_without_trials_says_nothing():
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.data())
def test_wilson_interval_holds_the_share(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = metrics.wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1


def test_difference_interval_is_newcombes_published_example():
    # Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339.
    low, high = metrics.difference_interval(56 / 70, 70, 48 / 80, 80)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@pytest.mark.slow
@pytest.mark.parametrize("answers", [(5, 200), (9, 61)], ids=str, indirect=True)
def test_bootstrap_macro_f1_covers_what_scipys_bootstrap_covers(answers):
    probabilities, labels, predicted = answers
    classes = probabilities.shape[1]

    def f1(truth, answer):
        truth, answer = truth.astype(int), answer.astype(int)
        return reference.f1_score(truth, answer, labels=np.unique(truth), average="macro", zero_division=0)

    wanted = stats.bootstrap(
        (labels, predicted), f1, paired=True, vectorized=False, n_resamples=400, method="percentile", rng=0
    ).confidence_interval
    got = metrics.bootstrap_macro_f1(predicted, labels, classes, seed=1)
    assert got == pytest.approx((wanted.low, wanted.high), abs=0.03)
    assert got == metrics.bootstrap_macro_f1(predicted, labels, classes, seed=1)


def test_bootstrap_macro_f1_without_an_error_is_no_certainty():
    labels = np.arange(60) % 3
    low, high = metrics.bootstrap_macro_f1(labels, labels, 3, seed=0)
    assert (low, high) == metrics.wilson_interval(60, 60)
    assert 0.9 < low < 1 == high


def test_quantile_interval_holds_the_true_quantile():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        low, high = metrics.quantile_interval(rng.exponential(1.0, 60), 0.8)
        inside += low <= -math.log(0.2) <= high
    assert inside >= 0.93 * 400
    assert metrics.quantile_interval([3.0], 0.95) == (3.0, 3.0)
    with pytest.raises(ValueError, match="at least one"):
        metrics.quantile_interval([], 0.5)


def test_quantile_interval_is_the_textbooks_for_a_median():
    """Of 10 values the second and the ninth hold the median with 97.9% (Conover 1999, table A3)."""
    assert metrics.quantile_interval(range(1, 11), 0.5) == (2.0, 9.0)
