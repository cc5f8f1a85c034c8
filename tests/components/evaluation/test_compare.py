import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from pergola.components.stats import compare


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (0, 1), (4, 0), (3, 9), (12, 12), (40, 80), (900, 1100)]
)
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second):
    total = only_first + only_second
    wanted = stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
    assert compare.mcnemar(only_first, only_second) == pytest.approx(wanted, rel=1e-9)


def test_mcnemar_keeps_its_level_when_the_models_are_equal():
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(2000):
        first, second = rng.random((2, 360)) < 0.95
        rejected += _p(first, second) < 0.05
    assert rejected / 2000 < 0.05


def _p(first, second):
    return compare.mcnemar(int(np.sum(first & ~second)), int(np.sum(second & ~first)))


def test_paired_bootstrap_is_scipys():
    rng = np.random.default_rng(1)
    first, second = rng.random(300) < 0.9, rng.random(300) < 0.85
    wanted = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=0,
    ).confidence_interval
    got = compare.compare(first, second).bootstrap
    assert got == pytest.approx((wanted.low, wanted.high), abs=0.006)


@pytest.mark.parametrize(
    ("only_first", "only_second", "n"), [(0, 0, 40), (0, 5, 1000), (9, 3, 60), (40, 55, 360)]
)
def test_score_interval_ends_where_the_numeric_score_test_begins_to_reject(only_first, only_second, n):
    """Against the likelihood maximised numerically, without Tango's closed form."""

    def distance(delta):
        def loss(second):
            first = second + delta
            rest = 1 - first - second
            counts = np.array([only_first, only_second, n - only_first - only_second])
            return -float(np.sum(special.xlogy(counts, np.maximum([first, second, rest], 1e-300))))

        low, high = max(0.0, -delta), (1 - delta) / 2
        second = optimize.minimize_scalar(
            loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        ).x
        variance = (2 * second + delta - delta**2) / n
        return abs((only_first - only_second) / n - delta) / np.sqrt(variance) - stats.norm.ppf(0.975)

    difference = (only_first - only_second) / n
    low, high = compare.score_interval(only_first, only_second, n)
    assert low == pytest.approx(optimize.brentq(distance, -0.9, difference - 1e-6), abs=1e-5)
    assert high == pytest.approx(optimize.brentq(distance, difference + 1e-6, 0.9), abs=1e-5)


def test_score_interval_covers_the_truth_as_often_as_it_says_with_few_disagreements():
    rng = np.random.default_rng(2)
    counts = rng.multinomial(300, [0.004, 0.016, 0.98], size=2000)
    intervals = [compare.score_interval(int(b), int(c), 300) for b, c, _ in counts]
    covered = np.mean([low <= 0.004 - 0.016 <= high for low, high in intervals])
    assert 0.94 <= covered <= 0.985


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.data())
def test_score_interval_holds_the_difference_and_mirrors(n, data):
    first = data.draw(st.integers(0, n))
    second = data.draw(st.integers(0, n - first))
    low, high = compare.score_interval(first, second, n)
    assert -1 <= low <= (first - second) / n <= high <= 1
    assert compare.score_interval(second, first, n) == pytest.approx((-high, -low), abs=1e-9)


def test_paired_bootstrap_is_seeded():
    assert compare.paired_bootstrap(7, 3, 90, seed=4) == compare.paired_bootstrap(7, 3, 90, seed=4)


def test_compare_counts_disagreements():
    first = np.array([True, True, True, False, False])
    second = np.array([True, False, False, True, False])
    result = compare.compare(first, second)
    assert (result.only_candidate, result.only_champion) == (2, 1)
    assert result.difference == pytest.approx(0.2)
    assert (result.candidate_accuracy, result.champion_accuracy) == (0.6, 0.4)


def test_compare_of_equal_answers_finds_nothing():
    right = np.array([True, False, True])
    result = compare.compare(right, right)
    assert (result.difference, result.bootstrap, result.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert result.interval[0] < 0 < result.interval[1]


def test_compare_refuses_different_lengths():
    with pytest.raises(ValueError, match="of the same length"):
        compare.compare(np.array([True]), np.array([True, False]))
