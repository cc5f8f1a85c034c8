"""Calibration: models whose truth is known by construction, scikit-learn, and figures worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from pergola.components.evaluation import calibration as c
from pergola.components.stats import temperature as t
from tests.support.planted import model


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_fit_temperature_recovers_a_known_one(true):
    probabilities, labels = model(true, count=20_000)
    found = t.fit_temperature(probabilities, labels)
    assert found.value == pytest.approx(true, rel=0.03)
    after = t.apply_temperature(probabilities, found.value)
    assert found.log_loss_after == pytest.approx(log_loss(labels, after), abs=1e-6)
    assert found.log_loss_before == pytest.approx(log_loss(labels, probabilities), abs=1e-6)


def test_fit_temperature_is_scikit_learns():
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Fixed(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, x):
            return softmax(x, axis=1)

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(axis=1)

    probabilities, labels = model(2.5, count=2000)
    logits = np.log(probabilities)
    fitted = CalibratedClassifierCV(FrozenEstimator(Fixed().fit(logits, labels)), method="temperature")
    theirs = fitted.fit(logits, labels).predict_proba(logits)
    ours = t.apply_temperature(probabilities, t.fit_temperature(probabilities, labels).value)
    assert np.allclose(ours, theirs, atol=1e-3)


def test_fit_temperature_stays_in_bounds_for_a_model_that_is_always_right():
    probabilities = np.full((50, 2), 0.1)
    probabilities[:, 0] = 0.9
    found = t.fit_temperature(probabilities, np.zeros(50, int))
    assert t.MIN_TEMPERATURE <= found.value < 0.07
    wrong = np.tile([1.0, 0.0], (50, 1))
    assert 19 < t.fit_temperature(wrong, np.ones(50, int)).value <= t.MAX_TEMPERATURE


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_apply_temperature_keeps_the_likeliest_class_and_sums(temperature, seed):
    probabilities, _ = model(1.0, count=20, seed=seed)
    after = t.apply_temperature(probabilities, temperature)
    assert np.allclose(after.sum(axis=1), 1)
    assert (after.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert np.allclose(t.apply_temperature(probabilities, 1.0), probabilities)


def test_expected_calibration_error_worked_by_hand():
    """Two bins: confidence 0.6 is right in 1 of 2, confidence 0.9 in 2 of 2: (2 x 0.1 + 2 x 0.1) / 4."""
    probabilities = np.array([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [0.9, 0.1]])
    labels = np.array([0, 0, 1, 0])
    assert c.expected_calibration_error(probabilities, labels, 10, c.EQUAL_WIDTH) == pytest.approx(0.1)
    assert c.expected_calibration_error(probabilities, labels, 2) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="Unknown binning scheme 'odd'"):
        c.expected_calibration_error(probabilities, labels, 2, "odd")


def test_expected_calibration_error_of_a_known_case():
    # Four answers of confidence 0.9, three right: |0.75 - 0.9|; two of 0.6, one right: |0.5 - 0.6|.
    probabilities = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 2)
    labels = np.array([0, 0, 0, 1, 1, 0])
    for scheme in (c.EQUAL_WIDTH, c.EQUAL_MASS):
        found = c.expected_calibration_error(probabilities, labels, scheme=scheme)
        assert found == pytest.approx((4 * 0.15 + 2 * 0.1) / 6)


@pytest.mark.parametrize(("scheme", "strategy"), [(c.EQUAL_WIDTH, "uniform"), (c.EQUAL_MASS, "quantile")])
def test_reliability_is_scikit_learns_curve(scheme, strategy):
    probabilities, labels = model(2.0)
    bins = c.reliability(probabilities, labels, 10, scheme)
    correct = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(correct, probabilities.max(axis=1), n_bins=10, strategy=strategy)
    tolerance = 1e-9 if scheme == c.EQUAL_WIDTH else 0.02  # their quantiles lie between images
    assert [b.accuracy for b in bins] == pytest.approx(accuracy, abs=tolerance)
    assert [b.confidence for b in bins] == pytest.approx(confidence, abs=tolerance)
    assert sum(b.num_images for b in bins) == len(labels)
    assert all(b.interval[0] <= b.accuracy <= b.interval[1] for b in bins)


def test_calibration_tells_a_sure_model_from_a_calibrated_one():
    good, sure = c.calibration(*model(1.0)), c.calibration(*model(3.0))
    assert good.p_value > 0.05 and abs(good.error - good.error_by_chance) < 0.01 and abs(good.gap) < 0.02
    assert sure.p_value < 0.01 and sure.error > 0.1 and sure.gap > 0.1
    probabilities, labels = model(3.0)
    assert sure.brier == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))
    assert sure.log_loss == pytest.approx(log_loss(labels, probabilities))


def test_interval_of_the_error_holds_the_true_one():
    """The error of a model whose logits are 3 times too large, by a sample of 200,000; 100 parts of 300."""
    true = c.expected_calibration_error(*model(3.0, count=200_000))
    found = [c.calibration(*model(3.0, count=300, seed=i), num_samples=200) for i in range(100)]
    assert sum(one.interval[0] <= true <= one.interval[1] for one in found) >= 88
    assert all(one.interval[0] <= one.error <= one.interval[1] for one in found)


@pytest.mark.parametrize("count", [15, 40, 120])
def test_interval_of_the_error_does_not_blame_a_calibrated_model(count):
    """The gate rejects where the lower end is above 0.1: at most 2.5% of 200 such models, so 12 (99.9%)."""
    found = [c.calibration(*model(1.0, count=count, seed=i), num_samples=200) for i in range(200)]
    assert sum(one.interval[0] > 0.1 for one in found) <= 12


def test_calibration_before_is_that_of_the_undivided_logits():
    raw, labels = model(3.0)
    found = c.calibration(t.apply_temperature(raw, 3.0), labels, temperature=3.0)
    assert found.before is not None and found.before.before is None
    assert found.before.error == pytest.approx(c.calibration(raw, labels).error, abs=1e-9)
    assert found.error < 0.5 * found.before.error
    assert c.calibration(raw, labels).before is None


def test_the_prior_keeps_a_model_finite_that_is_right_in_a_few_images():
    probabilities = np.full((20, 2), 0.1)
    probabilities[:, 0] = 0.9
    found = t.fit_temperature(probabilities, np.zeros(20, int), prior=t.PRIOR)
    assert 0.5 < found.value < 0.85
    many, labels = model(2.0, count=20_000)
    plain, prior = (t.fit_temperature(many, labels, prior=p).value for p in (np.inf, t.PRIOR))
    assert prior == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize(("true", "count"), [(1.0, 16), (1.0, 60), (2.0, 16)])
def test_a_temperature_that_is_not_shown_to_help_is_not_used(true, count):
    """On unseen images the chosen one is at most 2% worse than none; smoothed targets were 31% worse."""
    unseen, truth = model(true, count=20_000, seed=99)
    none = log_loss(truth, unseen)
    after, used = [], 0
    for seed in range(15):
        found = t.choose_temperature(*model(true, count=count, seed=seed))
        used += found.value != 1
        after.append(log_loss(truth, t.apply_temperature(unseen, found.value)))
        assert found.value in (1.0, found.fitted)
        assert (found.value != 1) == (found.gain > t.CAUTION * found.gain_error)
    assert np.mean(after) < 1.02 * none and (true != 1 or used < 8)


def test_a_chosen_temperature_says_what_happened():
    helps = t.choose_temperature(*model(2.0, count=2000))
    assert helps.value == pytest.approx(2, rel=0.1) and helps.log_loss_after < helps.log_loss_before
    assert str(helps).startswith(f"temperature {helps.value:.2f}: held-out log loss falls by")
    useless = next(
        found
        for seed in range(20)
        if (found := t.choose_temperature(*model(1.0, count=40, seed=seed))).value == 1
    )
    assert useless.log_loss_after == useless.log_loss_before
    assert str(useless).startswith(f"no temperature: {useless.fitted:.2f} is not shown to help, held-out")
    assert "40 validation images" in str(useless)
    one = t.choose_temperature(np.array([[0.9, 0.1]]), np.array([0]))
    assert one.value == 1 and one.gain == 0


def test_a_temperature_of_the_release_before_still_loads(tmp_path):
    old = '{"schema": "Temperature/1", "value": 1.3, "num_images": 9, "log_loss_before": 1.0, '
    (tmp_path / "temperature.json").write_text(old + '"log_loss_after": 0.9}')
    assert str(t.Temperature.load(tmp_path)) == "temperature 1.30"


def test_calibration_p_value_is_uniform_for_calibrated_models():
    """One in twenty calibrated models is below 0.05: 200 models, so 3 to 19 by the binomial (99.9%)."""
    values = [c.calibration(*model(1.0, count=300, seed=i), num_samples=200).p_value for i in range(200)]
    assert 2 <= sum(value <= 0.05 for value in values) <= 20
    assert 0.4 < np.mean(values) < 0.6


def test_calibration_of_one_confidence_has_one_bin(tmp_path):
    found = c.calibration(np.tile([0.75, 0.25], (8, 1)), np.array([0, 0, 0, 1] * 2))
    assert len(found.bins) == 1 and found.error == pytest.approx(0) and found.p_value == 1
    found.save(tmp_path)
    assert c.Calibration.load(tmp_path) == found


def test_calibration_refuses_what_are_no_probabilities():
    with pytest.raises(ValueError, match="negative or infinite"):
        c.calibration(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(ValueError, match=r"shapes \(2, 2\) and \(3,\)"):
        t.fit_temperature(np.ones((2, 2)) / 2, np.zeros(3, int))
