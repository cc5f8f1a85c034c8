"""Do two samples come from one population? Several tests at once, by one set of permutations.

Rows of both samples are pooled and dealt out anew many times. All statistics are computed for each deal, so
the chance of *any* false alarm is held at a stated rate however the columns depend on one another. Sources:
Westfall and Young 1993 (step-down max-T), Phipson and Smyth 2010 (why p is never 0), Besag and Clifford
1991 (stopping early), Gretton et al. 2012 (MMD), Rahimi and Recht 2007 (random features).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.data.embeddings import principal

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Members = npt.NDArray[np.int8]  # (B, N): 1 where a row is dealt to the second sample

NUM_FEATURES = 256  # random features of the kernel
NUM_COMPONENTS = 64  # directions of the embeddings that are compared
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
    """Test each column, by as many permutations as a verdict at level `alpha` needs.

    There are at least `min_permutations` and, while the verdict is open, up to 10 / alpha.
    Raises ValueError when a sample is empty or columns differ in length.
    """
    statistics = _statistics(columns, seed)
    num_rows = _num_rows(columns)
    rng = np.random.default_rng(seed)
    actual = np.zeros((1, num_rows), np.int8)
    actual[:, columns.num_first :] = 1
    found = [_all(statistics, actual)]
    wanted = max(min_permutations, int(np.ceil(10 / alpha)))
    while (done := sum(map(len, found)) - 1) < wanted:
        deal = rng.permuted(np.repeat(actual, min(_CHUNK, wanted - done), axis=0), axis=1)
        found.append(_all(statistics, deal))
        if done + len(deal) >= min_permutations and _open_no_more(np.concatenate(found), statistics):
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
    values: Callable[[Members], Floats]  # (B, N) -> (B,)
    surprise: Callable[[Floats], Floats]  # (1 + B,) -> roughly -ln(p), so that tests are comparable
    effect: Callable[[float], float]


def _statistics(columns: Columns, seed: int) -> list[_Statistic]:
    first, rows = columns.num_first, _num_rows(columns)
    second = rows - first
    found = [_categories(name, values, first) for name, values in columns.categories.items()]
    found += [_numbers(name, values, first, second) for name, values in columns.numbers.items()]
    return found + [_vectors(name, values, first, second, seed) for name, values in columns.vectors.items()]


def _num_rows(columns: Columns) -> int:
    sizes = {
        len(v) for group in (columns.categories, columns.numbers, columns.vectors) for v in group.values()
    }
    if len(sizes) != 1 or not 0 < columns.num_first < max(sizes):
        raise ValueError(
            f"Wanted columns of one length with rows of both samples. Got lengths {sorted(sizes)} and "
            f"{columns.num_first} rows of the first sample."
        )
    return sizes.pop()


def _all(statistics: list[_Statistic], members: Members) -> Floats:
    return np.stack([one.values(members) for one in statistics], axis=1)


def _scores(values: Floats, statistics: list[_Statistic]) -> Floats:
    columns = [one.surprise(values[:, i]) for i, one in enumerate(statistics)]
    return np.minimum(np.nan_to_num(np.stack(columns, axis=1), posinf=700.0), 700.0)


def _open_no_more(values: Floats, statistics: list[_Statistic]) -> bool:
    best = _scores(values, statistics).max(axis=1)
    return bool((best[1:] >= best[0]).sum() >= _ENOUGH)


def _categories(name: str, values: Ints, num_first: int) -> _Statistic:
    """The G-test: twice the log likelihood ratio of one table against two."""
    from scipy.stats import chi2

    known, codes = np.unique(values, return_inverse=True)
    table = np.eye(len(known), dtype=np.float32)[codes]
    total = table.sum(axis=0, dtype=np.float64)
    num_second = len(values) - num_first

    def likelihood_ratio(members: Members) -> Floats:
        second = (members.astype(np.float32) @ table).astype(np.float64)
        expected = total * (num_second / len(values))
        return 2 * (_xlogy(second, expected) + _xlogy(total - second, total - expected)).sum(axis=1)

    actual = np.bincount(codes[:num_first], minlength=len(known)) / num_first
    other = np.bincount(codes[num_first:], minlength=len(known)) / num_second
    distance = float(np.abs(actual - other).sum() / 2)
    freedom = max(1, len(known) - 1)
    return _Statistic(name, likelihood_ratio, lambda v: -chi2.logsf(v, freedom), lambda _: distance)


def _numbers(name: str, values: Floats, num_first: int, num_second: int) -> _Statistic:
    """Kolmogorov and Smirnov's statistic, right for ties."""
    from scipy.special import kolmogorov

    order = np.argsort(values, kind="stable")
    rising = values[order]
    ends = np.append(np.flatnonzero(rising[1:] != rising[:-1]), len(rising) - 1)
    below = (ends + 1) / num_first
    scale = float(np.sqrt(num_first * num_second / (num_first + num_second)))

    def distance(members: Members) -> Floats:
        second = np.cumsum(members[:, order], axis=1, dtype=np.int32)[:, ends]
        return np.abs(second * (1 / num_first + 1 / num_second) - below).max(axis=1)

    def surprise(found: Floats) -> Floats:
        scaled = found * scale
        tail = np.log(np.maximum(kolmogorov(scaled), 1e-300))
        return -np.where(scaled > 4, np.log(2) - 2 * scaled**2, tail)

    return _Statistic(name, distance, surprise, float)


def _vectors(name: str, values: Floats, num_first: int, num_second: int, seed: int) -> _Statistic:
    """Maximum mean discrepancy of a Gaussian kernel as wide as the median distance."""
    from scipy.stats import gamma

    features = random_features(values, seed)
    total = features.sum(axis=0, dtype=np.float64)

    def discrepancy(members: Members) -> Floats:
        second = (members.astype(np.float32) @ features).astype(np.float64)
        return (((total - second) / num_first - second / num_second) ** 2).sum(axis=1)

    def surprise(found: Floats) -> Floats:
        mean, variance = found.mean(), max(float(found.var()), 1e-30)
        return -gamma.logsf(found, mean**2 / variance, scale=variance / max(mean, 1e-30))

    return _Statistic(name, discrepancy, surprise, float)


def random_features(values: Floats, seed: int) -> npt.NDArray[np.float32]:
    """Random Fourier features of a Gaussian kernel, float32 (N, 256): their scalar products are the kernel.

    The kernel's width is the median distance of the rows, which are first laid along their 64 principal
    directions. Neither depends on which sample a row is from.
    """
    rng = np.random.default_rng(seed)
    points = principal(values, NUM_COMPONENTS)
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
