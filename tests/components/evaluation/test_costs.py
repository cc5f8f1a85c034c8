"""Costs: rules known from the literature, sums worked by hand, and lists as people write them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from pergola.components.errors import InputError
from pergola.components.evaluation import cost_report
from pergola.components.stats import costs as c
from tests.support.planted import model

LABELS = ("a", "b", "c")


def read(tmp_path, text: str, labels=LABELS) -> c.Costs:
    path = tmp_path / "costs.csv"
    path.write_bytes(text.encode())
    return c.read_costs(path, labels)


def zero_one(ask: float | None = None, labels=LABELS) -> c.Costs:
    rows = 1.0 - np.eye(len(labels))
    actions = tuple(labels)
    if ask is not None:
        rows, actions = np.column_stack([rows, np.full(len(labels), ask)]), (*labels, c.ASK)
    return c.Costs(tuple(labels), actions, tuple(map(tuple, rows.tolist())))


def test_read_costs_fills_in_from_the_nearest_row(tmp_path):
    found = read(
        tmp_path, "true,predicted,cost,ask a person\n*,*,1,0.3\na,*,5,\n*,c,7,\na,c,9,0.5\nb,b,0.1,\n"
    )
    assert found.actions == (*LABELS, c.ASK)
    assert found.matrix == ((0, 5, 9, 0.5), (1, 0.1, 7, 0.3), (1, 1, 0, 0.3))
    assert found.constants().dtype == np.float32 and found.constants().shape == (3, 4)
    found.save(tmp_path)
    assert c.Costs.load(tmp_path) == found


def test_read_costs_without_asking_has_no_such_action(tmp_path):
    found = read(tmp_path, "\ufefftrue;predicted;cost\r\n*;*;2.5\r\n")
    assert found.actions == LABELS and found.matrix[0] == (0, 2.5, 2.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("true,predicted,cost\naa,b,1\n", "line 2: 'aa' is not a class of this model"),
        ("true,predicted,cost\na,b,much\n", "line 2: 'much' is not a cost"),
        ("true,predicted,cost\na,b,inf\n", "'inf' is not a cost"),
        ("true,predicted,cost\na,b,1\na,b,2\n", "line 3: 'a' predicted as 'b' already has a cost"),
        ("true,predicted,cost\na,b,1\n", "no cost for 'a' predicted as 'c'"),
        ("true,predicted,cost,ask a person\n*,*,1,\na,b,1,2\n", "no cost of asking a person for 'b'"),
        ("true,predicted,cost,ask a person\n*,*,1,1\n*,b,1,2\n", "asking a person about '\\*' has two costs"),
        ("true,predicted\n", "no column 'cost'"),
        ("true,predicted,cost,ask\n", "unknown column 'ask'"),
        ("", "no column 'true'"),
    ],
)
def test_read_costs_says_what_is_wrong(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path, text)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 1000))
def test_decide_asks_as_chow_says(price, seed):
    """Chow 1970: with errors at 1 and asking at d, hand over exactly where the confidence is below 1 - d."""
    probabilities, _ = model(1.0, count=50, classes=3, seed=seed)
    chosen = c.decide(probabilities, zero_one(price))
    sure = probabilities.max(axis=1)
    clear = np.abs(sure - (1 - price)) > 1e-9
    assert ((chosen == 3) == (sure < 1 - price))[clear].all()
    assert (chosen == probabilities.argmax(axis=1))[chosen < 3].all()


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0.001, 0.999))
def test_decide_has_elkans_threshold(false_positive, false_negative, p):
    """Elkan 2001, equation 2: answer 1 where p is at least c10 / (c10 + c01)."""
    table = c.Costs(("0", "1"), ("0", "1"), ((0, false_positive), (false_negative, 0)))
    threshold = false_positive / (false_positive + false_negative)
    if abs(p - threshold) > 1e-9:
        assert c.decide(np.array([[1 - p, p]]), table)[0] == int(p > threshold)


def test_decide_without_asking_is_the_likeliest_class_when_errors_cost_alike():
    probabilities, _ = model(1.0, classes=3)
    assert (c.decide(probabilities, zero_one()) == probabilities.argmax(axis=1)).all()


def test_decide_is_what_a_graph_computes_from_the_constants():
    probabilities, _ = model(1.0, classes=3)
    costs = zero_one(0.25)
    assert (
        np.argmin(probabilities @ costs.constants(), axis=1) == c.decide(probabilities, costs)
    ).mean() > 0.999


def test_cost_report_worked_by_hand():
    costs = c.Costs(("a", "b"), ("a", "b", c.ASK), ((0, 10, 2), (1, 0, 2)))
    probabilities = np.array([[0.95, 0.05], [0.5, 0.5], [0.04, 0.96], [0.02, 0.98]])
    labels = np.array([0, 0, 1, 0])
    # Expected costs of a, b and asking: 0.05, 9.5, 2 | 0.5, 5, 2 | 0.96, 0.4, 2 | 0.98, 0.2, 2.
    found = cost_report.cost_report(probabilities, labels, costs, champion=np.tile([0.5, 0.5], (4, 1)))
    own, likeliest, constant, champion = found.spendings
    assert (own.name, own.per_thousand, own.asked, own.accuracy) == ("cheapest decision", 2500, 0, 0.75)
    assert likeliest.per_thousand == 2500
    assert (constant.name, constant.per_thousand) == ("always 'a'", 250)
    assert champion.per_thousand == 250
    assert found.saving == found.saving_over_champion == 250 - 2500
    assert found.saving_interval[0] <= found.saving <= found.saving_interval[1]


def test_cost_report_of_a_calibrated_model_beats_every_other_way():
    probabilities, labels = model(1.0, classes=3, count=5000)
    costs = c.Costs(LABELS, (*LABELS, c.ASK), ((0, 1, 8, 0.7), (1, 0, 8, 0.7), (3, 3, 0, 0.7)))
    found = cost_report.cost_report(probabilities, labels, costs)
    own, likeliest, constant = found.spendings
    assert own.per_thousand < min(likeliest.per_thousand, constant.per_thousand)
    assert found.saving_interval[0] > 0 and 0 < own.asked < 1 and own.accuracy > likeliest.accuracy


def test_best_constant_may_be_to_ask():
    assert c.best_constant(np.array([0, 1, 2]), zero_one(0.5)) == 3
    assert c.best_constant(np.array([0, 0, 2]), zero_one(0.5)) == 0


def test_per_thousand_has_scipys_bootstrap_interval():
    paid = np.random.default_rng(0).choice([0.0, 1.0, 8.0], 400, p=[0.8, 0.15, 0.05])
    value, (low, high) = cost_report.per_thousand(paid, seed=1)
    theirs = bootstrap((paid,), np.mean, method="percentile", n_resamples=5000, rng=2).confidence_interval
    assert value == pytest.approx(1000 * paid.mean())
    assert (low, high) == pytest.approx((1000 * theirs.low, 1000 * theirs.high), rel=0.04)


def test_cost_curve_runs_from_answering_all_to_asking_all():
    probabilities, labels = model(1.0, classes=3)
    curve = cost_report.cost_curve(probabilities, labels, zero_one(0.2))
    assert curve[0].asked == 0 and curve[0].per_thousand == pytest.approx(1000 * (1 - curve[0].accuracy))
    assert (
        curve[-1].asked == 1 and curve[-1].accuracy is None and curve[-1].per_thousand == pytest.approx(200)
    )
    assert [p.asked for p in curve] == sorted(p.asked for p in curve)
    cheapest = min(curve, key=lambda point: point.per_thousand)
    assert cheapest.confidence == pytest.approx(0.8, abs=0.1)  # Chow's threshold, 1 - 0.2
    assert cost_report.cost_curve(probabilities, labels, zero_one()) == ()


def test_sign_flips_are_scipys_permutation_test():
    from scipy.stats import permutation_test

    paid = np.random.default_rng(0).choice([0, 0, 1, -1, 8], 60).astype(float)
    theirs = permutation_test((paid, 0 * paid), lambda a, b, axis: np.mean(a - b, axis=axis), vectorized=True,
                              permutation_type="samples", n_resamples=9999, rng=1)  # fmt: skip
    assert cost_report.sign_flips(paid) == pytest.approx(theirs.pvalue, abs=0.02)
    assert cost_report.sign_flips(np.zeros(5)) == 1.0
    assert cost_report.sign_flips(np.array([1.0, 1.0])) == pytest.approx(0.5, abs=0.02)


def test_costs_may_be_given_as_their_text():
    text = "true,predicted,cost\n*,*,2\n"
    assert c.read_costs(text, LABELS).matrix[0] == (0, 2, 2)
    assert c.read_text(text) == text
    with pytest.raises(InputError, match=r"export\.costs has no column 'cost'"):
        c.read_text("true,predicted\na,b\n")
