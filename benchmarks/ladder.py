"""Textbook networks with their published hyperparameters, compared with ours on the same images.

scripts/bench ladder [DATA] [--names mlp cnn1 …] [--seeds 5] [--epochs 20] [--timed N] [--list] [--json]

DATA defaults to ../shared/data/cifar10. Textbook networks are trained as published: Adam at 0.001, batches
of 32, float32, pixels from 0 to 1, no augmentation, a fixed number of epochs; `ours` is resnet_fast with our
defaults for four epochs. Each result is written to build/bench/ladder as soon as it is finished, and the same
command resumes. --timed N trains only N epochs and extrapolates the seconds, for a quick look: accuracies are
then those after N epochs.
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
from pergola.components.training.models.baselines import BASELINES
from pergola.components.training.search import comparison, comparison_chart
from pergola.components.training.search.comparison import ComparedNetwork

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
    parser.add_argument("--names", nargs="+", choices=sorted(BASELINES), default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--timed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--list", action="store_true", help="print the expected duration")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.list:
        hours = MINUTES / 60 * options.seeds * (options.timed or options.epochs) / 20
        print(f"{len(options.names)} networks and ours, {options.seeds} seeds: about {hours:.1f} hours")
        return
    shards = prepare(options.data, options.out)
    comparisons = [train(shards, options, seed) for seed in range(options.seeds)]
    result = {
        "epochs": options.epochs,
        "timed": options.timed,
        "seeds": options.seeds,
        "rows": summary(comparisons),
    }
    comparison_chart.draw(comparisons[0], options.out)
    print(json.dumps(result) if options.json else table(result["rows"]))


def train(shards: Path, options: argparse.Namespace, seed: int) -> list[ComparedNetwork]:
    """All textbook networks with their published hyperparameters, then ours."""
    out = options.out / f"seed-{seed}"
    trained = options.timed or options.epochs
    Augmentation({}).save(out / "plain")
    published = comparison.published(TrainSettings(seed=seed), trained)
    rows = comparison.compare(
        shards, out / "plain", out, options.names, ModelSettings(scaling="unit"), published
    )
    augment(shards, out / "augmented", AugmentSettings(), seed=seed)
    ours = comparison.compare(shards, out / "augmented", out, ["resnet_fast"], ModelSettings(width=32),
                              replace(OURS, seed=seed))  # fmt: skip
    return [*(replace(row, seconds=row.seconds * options.epochs / trained) for row in rows), *ours]


def summary(comparisons: list[list[ComparedNetwork]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, one row per network."""
    rows = []
    for same in zip(*comparisons, strict=True):
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
