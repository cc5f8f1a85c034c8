"""The architectures of the sources by the sources' recipe, beside ours on the same images.

scripts/bench ladder [DATA] [--names mlp cnn1 …] [--seeds 5] [--epochs 20] [--timed N] [--list] [--json]

DATA defaults to ../shared/data/cifar10. The recipe is the sources': Adam at 0.001, batches of 32, float32,
pixels from 0 to 1, no variation, a constant number of epochs; `ours` is resnet_fast by our defaults for as
many seconds as the best of them took. Each row is written as soon as it is there, under build/bench/ladder,
and the same command goes on. --timed N trains only N epochs and multiplies the seconds, for a quick look:
accuracies are then those after N epochs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.training import CIFAR, DATA, prepare, spread
from pergola.components.artifacts.training import Augmentation
from pergola.components.training.augmentation.augment import AugmentSettings, augment
from pergola.components.training.fit import TrainSettings
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.models.baselines import LADDER
from pergola.components.training.search import comparison, comparison_chart
from pergola.components.training.search.comparison import Row

OUT = Path("build/bench/ladder")
NAMES = ("mlp", "cnn1", "cnn2", "cnn_pool", "cnn_dropout", "cnn_batchnorm")
PUBLISHED = {"mlp": 0.4696, "cnn1": 0.5911, "cnn2": 0.6107, "cnn_pool": 0.6794, "cnn_dropout": 0.7211}
MINUTES = 25  # of one seed of all six on two cores, expected
OURS = TrainSettings(epochs=4)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench ladder", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="?", type=Path, default=DATA / CIFAR)
    parser.add_argument("--names", nargs="+", choices=sorted(LADDER), default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--timed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--list", action="store_true", help="say how long it takes")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.list:
        hours = MINUTES / 60 * asked.seeds * (asked.timed or asked.epochs) / 20
        print(f"{len(asked.names)} networks and ours, {asked.seeds} seeds: about {hours:.1f} hours")
        return
    shards = prepare(asked.data, asked.out)
    climbs = [climb(shards, asked, seed) for seed in range(asked.seeds)]
    result = {"epochs": asked.epochs, "timed": asked.timed, "seeds": asked.seeds, "rows": summary(climbs)}
    comparison_chart.draw(climbs[0], asked.out)
    print(json.dumps(result) if asked.json else table(result["rows"]))


def climb(shards: Path, asked: argparse.Namespace, seed: int) -> list[Row]:
    """All networks by the published recipe, then ours."""
    out = asked.out / f"seed-{seed}"
    trained = asked.timed or asked.epochs
    Augmentation({}).save(out / "plain")
    how = replace(comparison.published(TrainSettings(seed=seed), trained))
    rows = comparison.compare(shards, out / "plain", out, asked.names, ModelSettings(scaling="unit"), how)
    augment(shards, out / "varied", AugmentSettings(), seed=seed)
    ours = comparison.compare(shards, out / "varied", out, ["resnet_fast"], ModelSettings(width=32),
                              replace(OURS, seed=seed))  # fmt: skip
    return [*(replace(row, seconds=row.seconds * asked.epochs / trained) for row in rows), *ours]


def summary(climbs: list[list[Row]]) -> list[dict[str, Any]]:
    """Mean and deviation over seeds, a row a network."""
    rows = []
    for same in zip(*climbs, strict=True):
        figures = {
            "train": [row.train_accuracy for row in same],
            "test": [row.test_accuracy for row in same],
            "gap": [row.gap for row in same],
            "seconds": [row.seconds for row in same],
        }
        rows.append({
            "name": same[0].name, "parameters": same[0].num_parameters,
            "published": PUBLISHED.get(same[0].name), **{key: spread(v) for key, v in figures.items()},
        })  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'network':<13} {'parameters':>10} {'published':>9} {'test':>15} {'train':>7} {'gap':>7} {'s':>6}"
    ]
    for row in rows:
        published = f"{row['published']:.2%}" if row["published"] else ""
        test = f"{row['test']['mean']:.2%} ± {row['test']['deviation']:.2%}"
        lines.append(
            f"{row['name']:<13} {row['parameters']:>10,} {published:>9} {test:>15} "
            f"{row['train']['mean']:>7.2%} "
            f"{row['gap']['mean']:>7.2%} {row['seconds']['mean']:>6.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
