"""Compares two models on the same images: is one better, or is it chance?

Only images on which the models disagree tell something about the difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Comparison(Record):
    """A candidate and a champion on the same images."""

    FILE: ClassVar[str] = "comparison.json"

    num_images: int
    candidate_accuracy: float
    champion_accuracy: float
    difference: float  # candidate - champion, -1 to 1
    interval: tuple[float, float]  # 95%, of the difference, by Tango's score test; used by the gate
    bootstrap: tuple[float, float]  # the same by the bootstrap, which is too narrow for few disagreements
    only_candidate: int  # images that only the candidate classifies correctly
    only_champion: int
    p_value: float  # of the exact, two-sided McNemar test


def compare(candidate: Bools, champion: Bools, *, seed: int = 0) -> Comparison:
    """Compare by which images each model classifies correctly.

    candidate, champion: bool (N,), the same images in the same order.
    """
    if candidate.shape != champion.shape or candidate.ndim != 1 or not len(candidate):
        raise ValueError(
            f"Expected two boolean arrays of the same length, got {candidate.shape} and {champion.shape}."
        )
    only_candidate = int(np.sum(candidate & ~champion))
    only_champion = int(np.sum(champion & ~candidate))
    return Comparison(
        num_images=len(candidate),
        candidate_accuracy=float(candidate.mean()),
        champion_accuracy=float(champion.mean()),
        difference=(only_candidate - only_champion) / len(candidate),
        interval=score_interval(only_candidate, only_champion, len(candidate)),
        bootstrap=paired_bootstrap(only_candidate, only_champion, len(candidate), seed=seed),
        only_candidate=only_candidate,
        only_champion=only_champion,
        p_value=mcnemar(only_candidate, only_champion),
    )


def compare_evaluations(candidate: Path, champion: Path, *, seed: int = 0) -> Comparison:
    """Compare two evaluation folders, paired by the images' ids.

    Raises InputError when they are of different images.
    """
    ours, theirs = _correct(candidate), _correct(champion)
    if ours.keys() != theirs.keys():
        only = len(ours.keys() ^ theirs.keys())
        raise InputError(
            f"{candidate} and {champion} are not about the same images ({only} are in one only). "
            "Evaluate both on the same test split."
        )
    ids = sorted(ours)
    return compare(np.array([ours[i] for i in ids]), np.array([theirs[i] for i in ids]), seed=seed)


def compare_answers(candidate: Path, answers: Path, *, seed: int = 0) -> Comparison | None:
    """Compare an evaluation folder with stored answers, on the images that both have; None without any.

    answers: Parquet with the columns id and predicted. The true classes are those of the evaluation, so a
    label that was corrected since counts for both.
    """
    import pyarrow.parquet as parquet

    ours = parquet.read_table(candidate / "predictions.parquet", columns=["id", "label", "predicted"])
    theirs = parquet.read_table(answers, columns=["id", "predicted"]).to_pydict()
    known = dict(zip(theirs["id"], theirs["predicted"], strict=True))
    rows = [row for row in ours.to_pylist() if row["id"] in known]
    if not rows:
        return None
    return compare(
        np.array([row["predicted"] == row["label"] for row in rows]),
        np.array([known[row["id"]] == row["label"] for row in rows]),
        seed=seed,
    )


def images_to_decide(pair: Comparison, margin: float) -> int:
    """About how many images show either that a loss is real or that it is within the margin.

    Assumes that the share of disagreements and the difference stay as they are. Sources: Edwards 1948 for
    McNemar's test with a correction for few disagreements, and a normal approximation for the interval.
    """
    lead, total = abs(pair.only_candidate - pair.only_champion), pair.only_candidate + pair.only_champion
    z2 = NormalDist().inv_cdf(0.975) ** 2
    wanted = [math.inf]
    if lead:
        both = 2 * lead + z2 * total
        wanted.append(pair.num_images * (both + math.sqrt(both**2 - 4 * lead**2)) / (2 * lead**2))
    if abs(pair.difference) < margin:
        wanted.append(z2 * max(1, total) / pair.num_images / (margin - abs(pair.difference)) ** 2)
    return math.ceil(min(wanted)) if min(wanted) < math.inf else pair.num_images


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p-value of the exact McNemar test (a sign test on the disagreements), 0 to 1.

    Source: McNemar 1947; exact, by the binomial distribution, so it is valid for few disagreements, too.
    """
    total, smaller = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    term, tail = 1, 1
    for k in range(1, smaller + 1):
        term = term * (total - k + 1) // k
        tail += term
    return min(1.0, math.exp(math.log(tail) + math.log(2.0) - total * math.log(2.0)))


def score_interval(
    only_first: int, only_second: int, num_images: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference in accuracy (first - second), within [-1, 1].

    Source: Tango 1998, all differences that the score test does not reject. It keeps its level for few
    disagreements and small samples, where the bootstrap does not.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    difference = (only_first - only_second) / num_images

    def distance(delta: float) -> float:
        return abs(_tango(only_first, only_second, num_images, delta)) - z

    return (_root(distance, -1.0, difference), _root(distance, 1.0, difference))


def paired_bootstrap(
    only_first: int, only_second: int, num_images: int, *, seed: int, num_samples: int = 20_000
) -> tuple[float, float]:
    """95% interval of the difference in accuracy (first - second), by drawing images with replacement.

    The difference depends only on the number of disagreements of each kind, so these counts are drawn. Their
    distribution is the same as when images are drawn.
    """
    shares = np.array([only_first, only_second, num_images - only_first - only_second]) / num_images
    draws = np.random.default_rng(seed).multinomial(num_images, shares, size=num_samples)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / num_images, [0.025, 0.975])
    return (float(low), float(high))


def _tango(first: int, second: int, num: int, delta: float) -> float:
    """Tango's score statistic of the hypothesis that the difference is delta; standard normal under it."""
    b = -first - second + (2 * num - first + second) * delta
    c = -second * delta * (1 - delta)
    share = (math.sqrt(max(0.0, b * b - 8 * num * c)) - b) / (4 * num)  # of `second`, most likely given delta
    variance = num * (2 * share + delta * (1 - delta))
    gap = first - second - num * delta
    if gap == 0:
        return 0.0
    return math.copysign(math.inf, gap) if variance <= 0 else gap / math.sqrt(variance)


def _root(distance: Callable[[float], float], outside: float, inside: float) -> float:
    """The zero of `distance`, which is negative inside and positive outside, to 1e-12."""
    if distance(outside) <= 0:
        return outside
    while abs(outside - inside) > 1e-12:
        middle = (outside + inside) / 2
        if distance(middle) > 0:
            outside = middle
        else:
            inside = middle
    return outside


def _correct(folder: Path) -> dict[str, bool]:
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / "predictions.parquet", columns=["id", "label", "predicted"])
    rows = zip(*(table.column(name).to_pylist() for name in ("id", "label", "predicted")), strict=True)
    return {id: label == predicted for id, label, predicted in rows}
