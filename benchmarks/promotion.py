"""Who becomes champion over 50 retrainings: how much is lost, how often an equal model is held.

scripts/bench promotion [--lines 1000] [--json]

Each line starts with a champion and retrains 50 times. An image has a difficulty, drawn from the Beta law of
gate_simulation.py, and a model's score for its true class is that plus noise of its own, so that two models
tend to fail on the same images. The rules are those of components/evaluation/gate/champion_rules.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmarks.gate_simulation import DIFFICULTY, MEAN_ERROR
from pergola.components.artifacts.decision import ACCEPTED
from pergola.components.evaluation.gate.champion_rules import is_better, outcome_of
from pergola.components.evaluation.gate.settings import NOT_WORSE, UNDECIDED, GateSettings
from pergola.components.stats.compare import Comparison, mcnemar, score_interval
from pergola.components.stats.metrics import wilson_interval

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

RETRAININGS = 50
IMAGES = (30, 100, 300, 1000)
LOSS = 0.02  # of accuracy, that should not happen unnoticed


@dataclass(frozen=True)
class Case:
    """How models change, and what the test split does."""

    name: str
    trend: float = 0.0  # loss of true accuracy after all retrainings, against the first champion
    step: float = 0.0  # or in each retraining, against the champion of that time
    replaced: float = 0.0  # share of test images that are others at each retraining
    added: float = 0.0  # share of the first test images by which the test split grows each time
    rule: str = NOT_WORSE


CASES = (
    Case("0.1 points worse each time", trend=0.05),
    Case("0.1 points worse each time, 2% of the images replaced each time", trend=0.05, replaced=0.02),
    Case("0.1 points worse each time, 2% more images each time", trend=0.05, added=0.02),
    Case("each 0.3 points worse than its champion", step=0.003),
    Case("each 0.3 points worse than its champion, 2% more images each time", step=0.003, added=0.02),
    Case("0.1 points worse each time, rule of 0.1.0", trend=0.05, rule=UNDECIDED),
    Case("each 0.3 points worse than its champion, rule of 0.1.0", step=0.003, rule=UNDECIDED),
)


@dataclass(frozen=True)
class Verdicts:
    """What the rules say about a pair of counts."""

    above: bool  # promoted by the champion's rule, if its log loss is not higher
    below: bool  # and if it is
    anchor: bool  # promoted by the anchor's rule
    better: bool


@cache
def verdicts(only_candidate: int, only_other: int, num_images: int, rule: str) -> Verdicts:
    """By the product's rules; without images nothing is held."""
    if not num_images:
        return Verdicts(True, True, True, False)
    settings, counts = GateSettings(promote=rule), (only_candidate, only_other)
    pair = Comparison(
        num_images, 0.0, 0.0, (only_candidate - only_other) / num_images,
        score_interval(*counts, num_images), (0.0, 0.0), *counts, mcnemar(*counts),
    )  # fmt: skip
    above, below = (outcome_of(pair, settings, finer=sign) == ACCEPTED for sign in (1.0, -1.0))
    anchor = rule == UNDECIDED or outcome_of(pair, settings, allowed=settings.max_loss) == ACCEPTED
    return Verdicts(above, below, anchor, is_better(pair, settings))


class Lines:
    """Many independent lines of champions, each on a test split of its own."""

    def __init__(self, lines: int, num_images: int, seed: int, rule: str, added: float = 0.0) -> None:
        self.rng = np.random.default_rng((seed, num_images))
        self.shape, self.rule = (lines, round(num_images * (1 + added * RETRAININGS))), rule
        self.present = np.arange(self.shape[1]) < num_images  # of the columns, those in the test split
        self.growth = round(num_images * added)
        self.chance = self.rng.beta(*DIFFICULTY, self.shape)
        self.loss = np.zeros(lines)  # of the champion, in true accuracy
        self.right, self.cost = self.answers(self.loss)
        self.anchor, self.known = self.right.copy(), np.tile(self.present, (lines, 1))

    def answers(self, loss: Floats) -> tuple[Bools, Floats]:
        """Of new models whose true accuracy is lower by `loss`: right (lines, images), log loss."""
        worse = loss[:, None]
        easy, hard = (1 - self.chance) / (1 - MEAN_ERROR), self.chance / MEAN_ERROR
        chance = np.clip(self.chance + worse * np.where(worse > 0, easy, hard), 1e-12, 1 - 1e-12)
        scores = -ndtri(chance) + self.rng.standard_normal(self.shape)
        return scores > 0, np.log1p(np.exp(-2 * scores))

    def replace(self, share: float) -> None:
        """Other test images, to which the anchor has no answers; the champion is evaluated again."""
        new = self.rng.random(self.shape) < share
        self.chance[new] = self.rng.beta(*DIFFICULTY, int(new.sum()))
        right, cost = self.answers(self.loss)
        self.right[new], self.cost[new], self.known[new] = right[new], cost[new], False

    def retrain(self, loss: Floats) -> Bools:
        """One more candidate a line. Gives which of them are promoted."""
        right, cost = self.answers(loss)
        self.present[int(self.present.sum()) :][: self.growth] = True
        now = np.tile(self.present, (self.shape[0], 1))
        own = self._verdicts(right, self.right, now)
        anchored = self._verdicts(right, self.anchor, self.known)
        finer = cost[:, self.present].mean(axis=1) <= self.cost[:, self.present].mean(axis=1)
        promoted = np.array(
            [(v.above if f else v.below) and a.anchor for v, a, f in zip(own, anchored, finer, strict=True)]
        )
        self.right[promoted], self.cost[promoted], self.loss[promoted] = (
            right[promoted], cost[promoted], loss[promoted],
        )  # fmt: skip
        moved = promoted & np.array([a.better for a in anchored])
        self.anchor[moved], self.known[moved] = right[moved], self.present
        return promoted

    def _verdicts(self, ours: Bools, theirs: Bools, among: Bools) -> list[Verdicts]:
        gained, lost = (ours & ~theirs & among).sum(axis=1), (theirs & ~ours & among).sum(axis=1)
        counts = zip(gained.tolist(), lost.tolist(), among.sum(axis=1).tolist(), strict=True)
        return [verdicts(*row, self.rule) for row in counts]


def worsening(case: Case, lines: int, num_images: int, seed: int = 0) -> dict[str, Any]:
    """Share of lines whose last champion lost more than LOSS, and the mean loss in points."""
    found = Lines(lines, num_images, seed, case.rule, case.added)
    for number in range(1, RETRAININGS + 1):
        if case.replaced:
            found.replace(case.replaced)
        trend = np.full(lines, case.trend * number / RETRAININGS)
        found.retrain(found.loss + case.step if case.step else trend)
    count = int((found.loss > LOSS).sum())
    return {"share": count / lines, "interval": wilson_interval(count, lines), "loss": found.loss.mean()}


def single(lines: int, num_images: int, seed: int, gain: float, after: int) -> dict[str, Any]:
    """Share of candidates, better by `gain`, that are promoted; first `after` equal models are retrained."""
    found = Lines(lines, num_images, seed, NOT_WORSE)
    for _ in range(after):
        found.retrain(np.zeros(lines))
    count = int(found.retrain(np.full(lines, -gain)).sum())
    return {"share": count / lines, "interval": wilson_interval(count, lines)}


def table(lines: int, seed: int = 0) -> list[dict[str, Any]]:
    """All figures, one row a case, by the number of test images."""
    rows = [
        {"case": f"loss above 2 points: {case.name}",
         **{str(n): worsening(case, lines, n, seed) for n in IMAGES}} for case in CASES
    ]  # fmt: skip
    for name, gain, after in (
        ("equal, promoted at the first retraining", 0.0, 0),
        ("equal, promoted after 20 equal ones", 0.0, 20),
        ("3 points better, promoted at the first retraining", 0.03, 0),
        ("3 points better, promoted after 20 equal ones", 0.03, 20),
    ):
        rows.append({"case": name, **{str(n): single(lines, n, seed, gain, after) for n in IMAGES}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench promotion", description=__doc__)
    parser.add_argument("--lines", type=int, default=1000, help="lines of champions a figure (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    rows = table(options.lines, options.seed)
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    print("| share of lines, at test images | " + " | ".join(map(str, IMAGES)) + " |")
    for row in rows:
        cells = [row[str(n)] for n in IMAGES]
        texts = [f"{c['share']:.1%} ({c['interval'][0]:.1%} to {c['interval'][1]:.1%})" for c in cells]
        print(f"| {row['case']} | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
