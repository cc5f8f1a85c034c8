"""Two-sample tests: SciPy's statistics, the textbook step-down, and false alarms as often as stated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from pergola.components.stats import two_samples
from pergola.components.stats.two_samples import Columns, compare_samples


def columns(first: int, *, categories=None, numbers=None, vectors=None) -> Columns:
    return Columns(first, categories or {}, numbers or {}, vectors or {})


def test_numbers_have_scipys_distance_and_p_value():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 60), rng.normal(0.35, 1, 80)
    (found,) = compare_samples(
        columns(60, numbers={"x": np.append(a, b)}), alpha=0.001, min_permutations=4999
    )
    theirs = stats.ks_2samp(a, b, method="exact")
    assert found.effect == pytest.approx(theirs.statistic)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.adjusted_p == found.p_value


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(1, 39))
def test_numbers_with_ties_have_scipys_distance(values, cut):
    first = min(cut, len(values) - 1)
    found = compare_samples(
        columns(first, numbers={"x": np.array(values, float)}), alpha=0.5, min_permutations=19
    )
    theirs = stats.ks_2samp(values[:first], values[first:], method="exact")
    assert found[0].effect == pytest.approx(theirs.statistic)


def test_numbers_of_many_rows_have_scipys_distance_on_a_grid():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 3000), rng.normal(0.1, 1, 6000)
    (found,) = compare_samples(columns(3000, numbers={"x": np.append(a, b)}), alpha=0.5, min_permutations=19)
    assert found.effect == pytest.approx(stats.ks_2samp(a, b).statistic, abs=0.002)


def test_categories_have_scipys_g_test():
    rng = np.random.default_rng(0)
    a, b = rng.choice(3, 200, p=[0.5, 0.3, 0.2]), rng.choice(3, 300, p=[0.4, 0.35, 0.25])
    table = np.array([np.bincount(a), np.bincount(b)])
    theirs = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood")
    pooled = columns(200, categories={"class": np.append(a, b)})
    (statistic,) = two_samples._statistics(pooled, 0)
    assert statistic.values(np.arange(200)[None])[0] == pytest.approx(theirs.statistic)
    assert statistic.surprise(np.array([theirs.statistic]))[0] == pytest.approx(-np.log(theirs.pvalue))
    (found,) = compare_samples(pooled, alpha=0.001, min_permutations=4999)
    assert found.p_value == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.effect == pytest.approx(np.abs(table[0] / 200 - table[1] / 300).sum() / 2)


def test_vectors_have_the_discrepancy_of_the_exact_kernel():
    """Gretton et al. 2012, equation 5 (biased), with the whole kernel matrix."""
    rng = np.random.default_rng(0)
    pooled = rng.normal(size=(300, 4))
    pooled[150:, 0] += 1
    (found,) = compare_samples(columns(150, vectors={"v": pooled}), alpha=0.1, min_permutations=99)
    points = (pooled - pooled.mean(axis=0)) / np.sqrt(pooled.var(axis=0).sum())
    kernel = np.exp(-(cdist(points, points) ** 2) / (2 * np.median(pdist(points)) ** 2))
    exact = kernel[:150, :150].mean() + kernel[150:, 150:].mean() - 2 * kernel[:150, 150:].mean()
    assert found.effect == pytest.approx(exact, rel=0.25)
    assert found.p_value == 1 / 101  # 10 / alpha permutations


def test_step_down_worked_by_hand():
    """Ge, Dudoit, Speed 2003, box 2, on four permutations: observed (5, 3, 1)."""
    scores = np.array([[5, 3, 1], [2, 6, 0], [1, 2, 4], [4, 2, 0], [0, 3.5, 3]], float)
    # Maxima over all: 5 6 4 4 3.5, so 2/5; over the last two: 3 6 4 2 3.5, so 4/5; of the last: 1 0 4 0 3,
    # so 3/5, which must not be below the one before it.
    assert two_samples.step_down(scores).tolist() == pytest.approx([0.4, 0.8, 0.8])
    assert two_samples.step_down(scores[:, ::-1]).tolist() == pytest.approx([0.8, 0.8, 0.4])


def sample(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Columns that depend on one another, as a model's answers and an image's brightness do."""
    vectors = rng.normal(size=(count, 6))
    return {
        "vectors": vectors,
        "class": (vectors[:, 0] > 0) + 0,
        "sure": np.abs(vectors[:, 0]),
        "x": vectors[:, 1],
    }


def pooled(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> Columns:
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    return columns(
        len(first["x"]),
        categories={"class": both["class"]},
        numbers={"sure": both["sure"], "x": both["x"]},
        vectors={"vectors": both["vectors"]},
    )


def test_compare_samples_raises_false_alarms_as_often_as_stated():
    """100 pairs of equal populations at level 0.2: 20 alarms expected, give or take what chance does."""
    rng = np.random.default_rng(1)
    alarms, single = 0, 0
    for i in range(100):
        outcomes = compare_samples(
            pooled(sample(rng, 40), sample(rng, 60)), alpha=0.2, min_permutations=49, seed=i
        )
        alarms += min(o.adjusted_p for o in outcomes) <= 0.2
        single += outcomes[-1].p_value <= 0.2
    low, high = stats.binom.ppf([0.0005, 0.9995], 100, 0.2)
    assert low <= alarms <= high
    assert low <= single <= high


def test_compare_samples_names_what_moved_and_only_that():
    rng = np.random.default_rng(0)
    first, second = sample(rng, 200), sample(rng, 300)
    second["x"] = second["x"] + 1
    found = {o.name: o for o in compare_samples(pooled(first, second), alpha=0.01)}
    assert found["x"].adjusted_p <= 0.01 and found["x"].effect > 0.3
    assert all(found[name].adjusted_p > 0.01 for name in ("class", "sure", "vectors"))


def test_compare_samples_takes_columns_that_never_vary():
    same = columns(
        5, categories={"c": np.zeros(12, int)}, numbers={"n": np.ones(12)}, vectors={"v": np.ones((12, 3))}
    )
    assert [o.adjusted_p for o in compare_samples(same, alpha=0.05)] == [1, 1, 1]


def test_compare_samples_refuses_an_empty_sample():
    with pytest.raises(ValueError, match="12 rows of the first sample"):
        compare_samples(columns(12, numbers={"n": np.ones(12)}), alpha=0.05)
