"""The cost of several decision strategies on the same images, with intervals. See costs.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError
from pergola.components.stats.costs import ASK, Costs, best_constant, decide

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


@dataclass(frozen=True)
class StrategyCost:
    """The cost of one strategy on one split."""

    name: str
    per_thousand: float  # cost of 1,000 images
    interval: tuple[float, float]  # 95%, bootstrap
    asked: float  # share of images referred to a person, 0 to 1
    accuracy: float | None  # on the other images; None if there are none


@dataclass(frozen=True)
class CostReport(Record):
    """Cost of 1,000 images for several strategies on the same images, the model's decisions first."""

    FILE: ClassVar[str] = "cost_report.json"

    num_images: int
    constant: int  # the best constant action, an index in Costs.actions
    spendings: tuple[StrategyCost, ...]
    saving: float  # of the model's decisions over the best constant action, per 1,000 images
    saving_interval: tuple[float, float]  # 95%, paired bootstrap
    saving_over_champion: float | None = None
    saving_over_champion_interval: tuple[float, float] | None = None
    saving_over_champion_p: float | None = None  # p-value of the difference
    curve: tuple[CurvePoint, ...] = ()  # empty if no person can be asked


@dataclass(frozen=True)
class CurvePoint:
    """The cost if only predictions of at least this confidence are used."""

    confidence: float  # images below it are referred to a person
    asked: float  # share of images, 0 to 1
    accuracy: float | None  # on the other images; None if there are none
    per_thousand: float  # cost of 1,000 images, asking included


def cost_report(
    probabilities: Floats,
    labels: Ints,
    costs: Costs,
    champion: Floats | None = None,
    *,
    constant: int | None = None,
    seed: int = 0,
) -> CostReport:
    """The cost of the model's decisions on these images, compared with other strategies.

    champion: another model's probabilities for the same images and classes, (N, C).
    constant: the constant action to compare with, chosen on the training split; None: the best one on these
        images, which is harder to beat.
    """
    table = np.array(costs.matrix)
    constant = best_constant(labels, costs) if constant is None else constant
    own, always = decide(probabilities, costs), np.full(len(labels), constant)
    answers = {
        "cheapest decision": own,
        "most likely class": probabilities.argmax(axis=1),
        f"always '{costs.actions[constant]}'": always,
    }
    if champion is not None:
        answers["champion"] = decide(champion, costs)
    paid = {name: table[labels, chosen] for name, chosen in answers.items()}
    saved = table[labels, always] - table[labels, own]
    over = table[labels, answers["champion"]] - table[labels, own] if champion is not None else None
    return CostReport(
        num_images=len(labels),
        constant=constant,
        spendings=tuple(
            StrategyCost(name, *per_thousand(paid[name], seed=seed), *_answered(chosen, labels, costs))
            for name, chosen in answers.items()
        ),
        saving=float(1000 * saved.mean()),
        saving_interval=per_thousand(saved, seed=seed)[1],
        saving_over_champion=None if over is None else float(1000 * over.mean()),
        saving_over_champion_interval=None if over is None else per_thousand(over, seed=seed)[1],
        saving_over_champion_p=None if over is None else sign_flips(over, seed=seed),
        curve=cost_curve(probabilities, labels, costs),
    )


def compare_costs(candidate: Path, champion: Path, *, seed: int = 0) -> CostReport | None:
    """An evaluation's cost report including the champion on the same images; None without costs.

    The champion's decisions use the candidate's costs, whatever it was exported with.
    """
    if not (candidate / Costs.FILE).is_file():
        return None
    costs, report = Costs.load(candidate), CostReport.load(candidate)
    ours, theirs = _predictions(candidate), _predictions(champion)
    if ours.keys() != theirs.keys():
        raise InputError(
            f"{candidate} and {champion} are not about the same images. Evaluate both on the same test split."
        )
    labels = np.array([costs.labels.index(ours[id][0]) for id in ours])
    rows = [np.array([table[id][1] for id in ours], np.float32) for table in (ours, theirs)]
    count = len(costs.labels)  # an older model may have further classes, which come after these
    return cost_report(
        rows[0][:, :count], labels, costs, rows[1][:, :count], constant=report.constant, seed=seed
    )


def cost_curve(
    probabilities: Floats, labels: Ints, costs: Costs, *, num_points: int = 50
) -> tuple[CurvePoint, ...]:
    """Cost, accuracy and share of referrals as the confidence threshold rises from 0 to above 1.

    Below the threshold a person is asked, otherwise the most likely class is used. The decision of the lowest
    expected cost is a point beside this curve. Empty unless the costs include ASK.
    """
    if ASK not in costs.actions:
        return ()
    table, confidence = np.array(costs.matrix), probabilities.max(axis=1)
    predicted = probabilities.argmax(axis=1)
    wanted = np.append(np.quantile(confidence, np.linspace(0, 1, num_points)), np.inf)
    points = []
    for threshold in np.unique(wanted):
        chosen = np.where(confidence >= threshold, predicted, costs.actions.index(ASK))
        asked, accuracy = _answered(chosen, labels, costs)
        cost = float(1000 * table[labels, chosen].mean())
        points.append(CurvePoint(min(float(threshold), 1.0), asked, accuracy, cost))
    return tuple(points)


def per_thousand(
    paid: Floats, *, seed: int = 0, num_samples: int = 5000
) -> tuple[float, tuple[float, float]]:
    """Cost of 1,000 images and its 95% interval (percentile bootstrap), from the cost of each, float (N,).

    Images of equal cost are interchangeable, so costs are resampled instead of images.
    """
    values, counts = np.unique(paid, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(paid), counts / len(paid), size=num_samples)
    low, high = np.quantile(draws @ values, [0.025, 0.975]) * 1000 / len(paid)
    return float(1000 * paid.mean()), (float(low), float(high))


def sign_flips(differences: Floats, *, seed: int = 0, num_samples: int = 9999) -> float:
    """Two-sided p-value of a paired difference in cost, by a sign-flip permutation test.

    Source: Fisher 1935, by simulation as in Phipson and Smyth 2010. Exact for few images and large costs,
    unlike a bootstrap. Differences of equal size are interchangeable, so only their signs are counted.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    positive = np.random.default_rng(seed).binomial(counts, 0.5, size=(num_samples, len(counts)))
    sums = np.abs((2 * positive - counts) @ sizes)
    found = abs(float(differences.sum()))
    return float((1 + np.sum(sums >= found - 1e-9 * max(1.0, found))) / (1 + num_samples))


def _predictions(folder: Path) -> dict[str, tuple[str, list[float]]]:
    """id -> true class and probabilities, of an evaluation folder."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(folder / "predictions.parquet", columns=["id", "label", "probabilities"])
    columns = (table.column(name).to_pylist() for name in ("id", "label", "probabilities"))
    return {id: (label, row) for id, label, row in zip(*columns, strict=True)}


def _answered(chosen: Ints, labels: Ints, costs: Costs) -> tuple[float, float | None]:
    """Share referred to a person, and the accuracy on the rest."""
    answered = chosen < len(costs.labels)
    right = chosen[answered] == labels[answered]
    return float(1 - answered.mean()), float(right.mean()) if answered.any() else None
