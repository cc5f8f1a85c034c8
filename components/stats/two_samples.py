"""Two-sample permutation tests: several tests at once, with one set of permutations.

The rows of both samples are pooled and permuted many times. All statistics are computed for each permutation,
so the rate of *any* false alarm is controlled, however the columns depend on each other. Sources:
Westfall and Young 1993 (step-down max-T), Phipson and Smyth 2010 (why p is never 0), Besag and Clifford
1991 (stopping early), Gretton et al. 2012 (MMD), Rahimi and Recht 2007 (random features).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Deals = Ints  # (B, M): the rows that each deal gives to the smaller sample

NUM_FEATURES = 256  # random features of the kernel
GRID = 1024  # pooled quantiles at which two distributions are compared
_CHUNK = 250
_ENOUGH = 30  # exceedances after which more permutations change no verdict


@dataclass(frozen=True)
class Columns:
    """Both samples' rows, the first sample's before the second's. Keys are the tests' names."""

    num_first: int
    categories: Mapping[str, Ints]  # (N,), small whole numbers from 0
    numbers: Mapping[str, Floats]  # (N,)
    vectors: Mapping[str, Floats]  # (N, D)


@dataclass(frozen=True)
class Outcome:
    """One test.

    effect: for numbers the largest distance of the two distributions (Kolmogorov, Smirnov), for categories
    the share that would have to change (total variation), both 0 to 1; for vectors the squared maximum
    mean discrepancy.
    """

    name: str
    effect: float
    p_value: float  # of this test alone
    adjusted_p: float  # of all tests together: below a means at most chance a that any such alarm is false


def compare_samples(
    columns: Columns, *, alpha: float, min_permutations: int = 999, seed: int = 0
) -> tuple[Outcome, ...]:
    """Test each column, with as many permutations as a verdict at level `alpha` needs.

    There are at least `min_permutations` and, while the verdict is open, up to 10 / alpha.
    Raises ValueError when a sample is empty or columns differ in length.
    """
    statistics = _statistics(columns, seed)
    rng = np.random.default_rng(seed)
    num_rows, actual = _num_rows(columns), _smaller(columns)
    found = [_all(statistics, actual[None])]
    wanted = max(min_permutations, int(np.ceil(10 / alpha)))
    while (done := sum(map(len, found)) - 1) < wanted:
        deals = [rng.choice(num_rows, len(actual), replace=False) for _ in range(min(_CHUNK, wanted - done))]
        found.append(_all(statistics, np.stack(deals)))
        if done + len(deals) >= min_permutations and _open_no_more(np.concatenate(found), statistics):
            break
    values = np.concatenate(found)
    scores = _scores(values, statistics)
    single = (scores >= scores[0] - 1e-12).sum(axis=0) / len(scores)
    adjusted = step_down(scores)
    effects = [one.effect(value) for one, value in zip(statistics, values[0], strict=True)]
    return tuple(
        Outcome(one.name, float(effect), float(p), float(q))
        for one, effect, p, q in zip(statistics, effects, single, adjusted, strict=True)
    )


def step_down(scores: Floats) -> Floats:
    """Adjusted p-values of the step-down max-T method, float (K,).

    scores: (1 + B, K), higher is more surprising; the first row was observed, the others are permutations.
    """
    order = np.argsort(-scores[0], kind="stable")
    ahead = np.maximum.accumulate(scores[:, order[::-1]], axis=1)[:, ::-1]
    exceeded = (ahead >= scores[0, order] - 1e-12).sum(axis=0) / len(scores)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(exceeded)
    return adjusted


@dataclass(frozen=True)
class _Statistic:
    name: str
    values: Callable[[Deals], Floats]  # (B, M) -> (B,)
    surprise: Callable[[Floats], Floats]  # (1 + B,) -> roughly -ln(p), so that tests are comparable
    effect: Callable[[float], float]


def _statistics(columns: Columns, seed: int) -> list[_Statistic]:
    small = _smaller(columns)
    found = [_categories(name, values, small) for name, values in columns.categories.items()]
    found += [_numbers(name, values, len(small)) for name, values in columns.numbers.items()]
    return found + [_vectors(name, values, len(small), seed) for name, values in columns.vectors.items()]


def _smaller(columns: Columns) -> Ints:
    """The rows of the smaller sample. All statistics are the same seen from either sample."""
    rows = np.arange(_num_rows(columns))
    first, second = rows[: columns.num_first], rows[columns.num_first :]
    return first if len(first) <= len(second) else second


def _num_rows(columns: Columns) -> int:
    sizes = {
        len(v) for group in (columns.categories, columns.numbers, columns.vectors) for v in group.values()
    }
    if len(sizes) != 1 or not 0 < columns.num_first < max(sizes):
        raise ValueError(
            f"Expected columns of one length with rows of both samples. Got lengths {sorted(sizes)} and "
            f"{columns.num_first} rows of the first sample."
        )
    return sizes.pop()


def _all(statistics: list[_Statistic], deals: Deals) -> Floats:
    return np.stack([one.values(deals) for one in statistics], axis=1)


def _scores(values: Floats, statistics: list[_Statistic]) -> Floats:
    columns = [one.surprise(values[:, i]) for i, one in enumerate(statistics)]
    return np.minimum(np.nan_to_num(np.stack(columns, axis=1), posinf=700.0), 700.0)


def _open_no_more(values: Floats, statistics: list[_Statistic]) -> bool:
    best = _scores(values, statistics).max(axis=1)
    return bool((best[1:] >= best[0]).sum() >= _ENOUGH)


def _counts(codes: Ints, num_codes: int, deals: Deals) -> Floats:
    """How often each code is in each deal, float64 (B, num_codes)."""
    flat = codes[deals] + num_codes * np.arange(len(deals))[:, None]
    counts = np.bincount(flat.ravel(), minlength=num_codes * len(deals))
    return counts.reshape(len(deals), num_codes).astype(np.float64)


def _categories(name: str, values: Ints, small: Ints) -> _Statistic:
    """The G-test: twice the log likelihood ratio of one table against two."""
    from scipy.stats import chi2

    known, codes = np.unique(values, return_inverse=True)
    total = np.bincount(codes).astype(np.float64)
    num_other = len(values) - len(small)

    def likelihood_ratio(deals: Deals) -> Floats:
        dealt = _counts(codes, len(known), deals)
        expected = total * (len(small) / len(values))
        return 2 * (_xlogy(dealt, expected) + _xlogy(total - dealt, total - expected)).sum(axis=1)

    actual = _counts(codes, len(known), small[None])[0]
    distance = float(np.abs(actual / len(small) - (total - actual) / num_other).sum() / 2)
    freedom = max(1, len(known) - 1)
    return _Statistic(name, likelihood_ratio, lambda v: -chi2.logsf(v, freedom), lambda _: distance)


def _numbers(name: str, values: Floats, num_small: int) -> _Statistic:
    """Kolmogorov and Smirnov's statistic, right for ties, at no more than GRID places."""
    from scipy.special import kolmogorov

    codes = np.unique(values, return_inverse=True)[1]
    ends = np.bincount(codes).cumsum()  # rows up to and with each value
    if len(ends) > GRID:
        places = np.unique(np.searchsorted(ends, np.linspace(1, len(values), GRID)))
        codes, ends = np.searchsorted(places, codes), ends[places]
    num_other = len(values) - num_small
    scale = float(np.sqrt(num_small * num_other / len(values)))

    def distance(deals: Deals) -> Floats:
        dealt = _counts(codes, len(ends), deals).cumsum(axis=1)
        return np.abs(dealt * (1 / num_small + 1 / num_other) - ends / num_other).max(axis=1)

    def surprise(found: Floats) -> Floats:
        scaled = found * scale
        tail = np.log(np.maximum(kolmogorov(scaled), 1e-300))
        return -np.where(scaled > 4, np.log(2) - 2 * scaled**2, tail)

    return _Statistic(name, distance, surprise, float)


def _vectors(name: str, values: Floats, num_small: int, seed: int) -> _Statistic:
    """Maximum mean discrepancy of a Gaussian kernel as wide as the median distance."""
    from scipy.stats import gamma

    features = random_features(values, seed)
    total = features.sum(axis=0, dtype=np.float64)

    def discrepancy(deals: Deals) -> Floats:
        members = np.zeros((len(deals), len(values)), np.float32)
        np.put_along_axis(members, deals, 1.0, axis=1)
        dealt = (members @ features).astype(np.float64)
        return (((total - dealt) / (len(values) - num_small) - dealt / num_small) ** 2).sum(axis=1)

    def surprise(found: Floats) -> Floats:
        mean, variance = found.mean(), max(float(found.var()), 1e-30)
        return -gamma.logsf(found, mean**2 / variance, scale=variance / max(mean, 1e-30))

    return _Statistic(name, discrepancy, surprise, float)


def random_features(values: Floats, seed: int) -> npt.NDArray[np.float32]:
    """Random Fourier features of a Gaussian kernel, float32 (N, 256): their scalar products are the kernel.

    The kernel's width is the median distance of up to 500 rows, drawn from both samples alike.
    """
    rng = np.random.default_rng(seed)
    points = values.astype(np.float32)
    some = points[rng.choice(len(points), min(500, len(points)), replace=False)]
    squares = (some**2).sum(axis=1)
    apart = (squares[:, None] + squares[None] - 2 * some @ some.T)[np.triu_indices(len(some), 1)]
    width = np.sqrt(max(float(np.median(apart)) if len(apart) else 1.0, 1e-12))
    waves = rng.normal(0, 1 / width, (points.shape[1], NUM_FEATURES)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, NUM_FEATURES).astype(np.float32)
    return (np.sqrt(2 / NUM_FEATURES) * np.cos(points @ waves + phases)).astype(np.float32)


def _xlogy(observed: Floats, expected: Floats) -> Floats:
    from scipy.special import xlogy

    return xlogy(observed, observed / np.maximum(expected, 1e-300))
