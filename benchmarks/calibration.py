"""What a temperature from few validation images does to the log loss of unseen images, in 12 cases.

scripts/bench calibration [--runs 200] [--json]

Logits are normal with a standard deviation of 2 (a hard task, 65% accuracy) or 6 (an easy one, 88%), five
classes; a network is over- or underconfident by a true temperature. Each run fits on 16 or 60 images, and the
log loss is that of 20,000 others.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from pergola.components.stats.temperature import choose_temperature, log_loss

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SPREADS, TRUE, SIZES = (2.0, 6.0), (0.6, 1.0, 1.6), (16, 60)
CLASSES = 5
RULES = ("smoothed targets, 0.1.0", "prior alone", "prior, if it helps")


def drawn(rng: np.random.Generator, spread: float, true: float, count: int) -> tuple[Floats, Ints]:
    """Logits of a network that should be divided by `true`, and labels."""
    logits = rng.normal(0, spread, (count, CLASSES))
    below = (rng.random((count, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1)
    return logits * true, below.clip(0, CLASSES - 1)


def smoothed(logits: Floats, labels: Ints) -> float:
    """The temperature of 0.1.0: the true class of N images has the target (N + 1) / (N + 2)."""
    count, smoothing = len(labels), 1 / (len(labels) + 2)

    def loss(inverse: float) -> float:
        scores = log_softmax(logits * inverse, axis=1)
        own = scores[np.arange(count), labels]
        others = (scores.sum(axis=1) - own) / (CLASSES - 1)
        return float(-((1 - smoothing) * own + smoothing * others).mean())

    return float(1 / minimize_scalar(loss, bounds=(1 / 20, 20), method="bounded").x)


def case(spread: float, true: float, count: int, runs: int, seed: int = 0) -> dict[str, Any]:
    """Mean change of the log loss on unseen images by each rule, and how often it rose by over 0.5%."""
    logits, labels = drawn(np.random.default_rng((seed, 0)), spread, true, 20_000)
    none = log_loss(logits, labels)
    temperatures: list[tuple[float, float, float]] = []
    for run in range(runs):
        few, truth = drawn(np.random.default_rng((seed, 1, run)), spread, true, count)
        chosen = choose_temperature(softmax(few, axis=1), truth)
        temperatures.append((smoothed(few, truth), chosen.fitted or 1.0, chosen.value))
    found: dict[str, Any] = {"spread": spread, "true": true, "images": count, "none": none}
    found["best"] = log_loss(logits / true, labels)
    for rule, values in zip(RULES, zip(*temperatures, strict=True), strict=True):
        changes = np.array([log_loss(logits / value, labels) / none - 1 for value in values])
        found[rule] = {
            "median": float(np.median(values)),
            "change": float(changes.mean()),
            "worse": float((changes > 0.005).mean()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench calibration", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="validation splits a case (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    rows = [case(*one, options.runs, options.seed) for one in itertools.product(SPREADS, TRUE, SIZES)]
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    print("| logits | true | images | log loss | best | " + " | ".join(RULES) + " |")
    for row in rows:
        cells = [
            f"{row[rule]['change']:+.1%}, worse in {row[rule]['worse']:.0%}, T {row[rule]['median']:.2f}"
            for rule in RULES
        ]
        figures = (
            f"{row['spread']:g} | {row['true']:g} | {row['images']} | {row['none']:.3f} | {row['best']:.3f}"
        )
        print(f"| {figures} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
