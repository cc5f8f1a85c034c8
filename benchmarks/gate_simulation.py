"""Error rates of the gate: 200 retrainings of an unchanged model, and of worse and better ones.

scripts/bench gate_simulation [--runs 200] [--json]

Each run trains a new champion and candidate. "drawn": each image has a difficulty, drawn from a Beta law,
which is the error probability of both models, so they tend to fail on the same images, as retrained
networks do.
"digits": extremely randomised trees with different seeds, trained on scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.evaluation import baselines
from pergola.components.evaluation.calibration import calibration
from pergola.components.evaluation.cost_report import cost_report
from pergola.components.evaluation.evaluate import EvaluateSettings, summarise
from pergola.components.evaluation.gate.gate import GateInputs, GateSettings, decide
from pergola.components.evaluation.scoring import Scores
from pergola.components.evaluation.slices import slice_scores
from pergola.components.stats.compare import compare
from pergola.components.stats.costs import ASK, Costs
from pergola.components.stats.metrics import wilson_interval

Ints = npt.NDArray[np.int64]
Pair = tuple[Ints, Ints, Ints]  # true labels, the candidate's answers, the champion's
SERVED = SmokeTest(ok=True, reason="", num_requests=8, max_difference=0.0)
CLASSES = 9
DIFFICULTY = (0.07, 0.93)  # of the Beta law: mean error 7%, most images easy, a few hard
MEAN_ERROR = DIFFICULTY[0] / sum(DIFFICULTY)


@dataclass(frozen=True)
class Case:
    """A kind of retraining, and what the gate states about it."""

    name: str
    pairs: Callable[[int, int], Iterator[Pair]]  # (seed, runs)
    settings: GateSettings
    max_rejected: float | None = None  # stated
    max_accepted: float | None = None
    max_called_better: float | None = None
    costs: Costs | None = None


def drawn(num_images: int, worse: float = 0.0) -> Callable[[int, int], Iterator[Pair]]:
    """Pairs of models; the candidate's true accuracy is lower by `worse`."""

    def pairs(seed: int, runs: int) -> Iterator[Pair]:
        rng = np.random.default_rng((seed, num_images, round(1e4 * (worse + 1))))
        for _ in range(runs):
            labels = rng.integers(0, CLASSES, num_images)
            chance = rng.beta(*DIFFICULTY, num_images)
            easy, hard = (1 - chance) / (1 - MEAN_ERROR), chance / MEAN_ERROR
            moved = chance + worse * (easy if worse > 0 else hard)
            yield labels, _answers(rng, labels, moved), _answers(rng, labels, chance)

    return pairs


def digits(seed: int, runs: int) -> Iterator[Pair]:
    """Pairs of really trained models that differ in their seed alone."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    for run in range(runs):
        parts = train_test_split(images, labels, test_size=360, random_state=seed + run, stratify=labels)
        train, test, known, truth = parts
        answers = [
            ExtraTreesClassifier(10, random_state=seed + 2 * run + i).fit(train, known).predict(test)
            for i in range(2)
        ]
        yield truth.astype(np.int64), answers[0].astype(np.int64), answers[1].astype(np.int64)


def cases() -> tuple[Case, ...]:
    """What is simulated."""
    forgiving, strict = GateSettings(), GateSettings(prove_not_worse=True)
    half = forgiving.significance / 2  # McNemar's test is two-sided, the rules look at one side
    found = [
        Case("unchanged, digits, 360 images", digits, forgiving, max_rejected=half, max_called_better=half)
    ]
    for count in (262, 2000):
        name = f"{count} images"
        found += [
            Case(f"unchanged, {name}", drawn(count), forgiving, max_rejected=half, max_called_better=half),
            Case(
                f"unchanged, with costs, {name}",
                drawn(count),
                forgiving,
                max_rejected=2 * half,
                costs=uneven(),
            ),
            Case(f"3 points worse, {name}", drawn(count, 0.03), forgiving, max_called_better=half),
            Case(f"6 points worse, {name}", drawn(count, 0.06), forgiving, max_called_better=half),
            Case(f"3 points better, {name}", drawn(count, -0.03), forgiving, max_rejected=half),
            Case(f"unchanged, prove_not_worse, {name}", drawn(count), strict, max_called_better=half),
            Case(
                f"worse by max_loss, prove_not_worse, {name}",
                drawn(count, strict.max_loss),
                strict,
                max_accepted=half,
            ),
        ]
    return tuple(found)


def simulate(case: Case, runs: int, seed: int = 0) -> dict[str, Any]:
    """Shares of candidates that are rejected, accepted and called better, with their 95% intervals.

    `kept`: no stated rate lies below its interval, so none is exceeded with 95% confidence.
    """
    rejected = accepted = better = 0
    for labels, candidate, champion in case.pairs(seed, runs):
        test, rival = _scores(labels, candidate), _scores(labels, champion)
        pair = compare(test.right, rival.right, seed=seed)
        calibrated = calibration(test.probabilities, labels, seed=seed, num_samples=200)
        names = tuple(map(str, range(test.probabilities.shape[1])))
        evaluation = summarise(test, None, names, EvaluateSettings(), calibrated)
        evaluation = dataclasses.replace(evaluation, baselines=(baselines.majority(test.right, labels),))
        slices = slice_scores(test.right, {"half": (np.arange(len(labels)) % 2).tolist()})
        costs = None
        if case.costs:
            costs = cost_report(test.probabilities, labels, case.costs, rival.probabilities, seed=seed)
        facts = GateInputs(evaluation, SERVED, pair, 1, slices, costs)
        decision = decide(facts, case.settings)
        rejected += not decision.registers
        accepted += decision.accepted
        better += pair.difference > 0 and pair.p_value < case.settings.significance
    counts = {"rejected": rejected, "accepted": accepted, "called_better": better}
    stated = {
        "rejected": case.max_rejected, "accepted": case.max_accepted, "called_better": case.max_called_better,
    }  # fmt: skip
    found: dict[str, Any] = {"case": case.name, "runs": runs, "kept": True}
    for name, count in counts.items():
        low, high = wilson_interval(count, runs)
        limit = stated[name]
        found[name] = {"share": count / runs, "low": low, "high": high, "stated_at_most": limit}
        found["kept"] &= limit is None or low <= limit
    return found


def _answers(rng: np.random.Generator, labels: Ints, chance: npt.NDArray[np.float64]) -> Ints:
    wrong = rng.random(len(labels)) < chance
    return np.where(wrong, (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES, labels)


def _scores(labels: Ints, answers: Ints) -> Scores:
    """The answers of a model that is as sure of each as models of its kind are right."""
    classes, right = int(max(labels.max(), answers.max())) + 1, 1 - MEAN_ERROR
    ids = tuple(f"{i:05}" for i in range(len(labels)))
    rows = np.where(np.eye(classes, dtype=bool)[answers], right, MEAN_ERROR / (classes - 1))
    return Scores(ids, labels, rows.astype(np.float32))


def uneven(classes: int = CLASSES) -> Costs:
    """An error costs 1, but 10 where class 0 is missed; a person costs 0.5."""
    table = np.ones((classes, classes)) - np.eye(classes)
    table[0, 1:] = 10
    names = tuple(map(str, range(classes)))
    rows = tuple((*map(float, row), 0.5) for row in table)
    return Costs(names, (*names, ASK), rows)


def _row(found: dict[str, Any]) -> str:
    cells = []
    for name in ("rejected", "called_better"):
        one = found[name]
        limit = "" if one["stated_at_most"] is None else f" (at most {100 * one['stated_at_most']:.1f}%)"
        cells.append(
            f"{name} {100 * one['share']:5.1f}% [{100 * one['low']:.1f}, {100 * one['high']:.1f}]{limit}"
        )
    accepted = found["accepted"]["stated_at_most"]
    if accepted is not None:
        cells.append(f"accepted {100 * found['accepted']['share']:.1f}% (at most {100 * accepted:.1f}%)")
    return f"{found['case']:45} {'kept' if found['kept'] else 'BROKEN':7}" + "   ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench gate_simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="retrainings a case (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    found = [simulate(case, options.runs, options.seed) for case in cases()]
    print(json.dumps({"cases": found}) if options.json else "\n".join(map(_row, found)))


if __name__ == "__main__":
    main()
