"""The architectures of the sources under one recipe: parameters, accuracy, overfitting, seconds.

scripts/bench ladder [DATA] [--names mlp cnn1 …] [--epochs 20] [--timed 2] [--json]
DATA defaults to ../shared/data/cifar10. The recipe is the sources': Adam at 0.001, batches of 32, float32,
pixels from 0 to 1, no variation, a constant number of epochs. --timed N trains only N epochs, and "seconds"
is then what that many epochs took times epochs/N; accuracies are those after N.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.training import prepare
from components.artifacts import PARTS, Shards
from components.training.architectures import ModelSettings
from components.training.fit import MODEL, TrainSettings, fit
from components.training.ladder import LADDER

CIFAR = Path(__file__).parents[1] / "../shared/data/cifar10/cifar10_jpeg_q75_60000.tar.xz"
NAMES = ("mlp", "cnn1", "cnn2", "cnn_pool", "cnn_dropout", "cnn_batchnorm")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench ladder", description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=CIFAR)
    parser.add_argument("--names", nargs="+", choices=sorted(LADDER), default=list(NAMES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--timed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        shards = prepare(asked.data, scratch)
        rows = [rung(name, shards, scratch, asked.epochs, asked.timed) for name in asked.names]
    print(json.dumps({"epochs": asked.epochs, "rows": rows}) if asked.json else table(rows))


def rung(name: str, shards_folder: Path, scratch: Path, epochs: int, timed: int) -> dict[str, Any]:
    """One architecture, trained as its source does."""
    import time

    from components.artifacts import Augmentation

    Augmentation({}).save(scratch / "plain")
    trained = timed or epochs
    settings = TrainSettings(
        epochs=trained, batch_size=32, optimizer="adam", learning_rate=1e-3, warmup=0.0,
        schedule="constant", precision="float32",
        label_smoothing=0.0, average=0.0, balance="off", patience=trained,
    )  # fmt: skip
    start = time.perf_counter()
    model = ModelSettings(architecture=name, scaling="unit")
    training = fit(shards_folder, scratch / "plain", scratch / name, model, settings)
    seconds = (time.perf_counter() - start) * epochs / trained
    accuracy = _score(shards_folder, scratch / name / MODEL, training)
    return {"name": name, "parameters": training.num_parameters, "seconds": seconds, **accuracy}


def _score(shards_folder: Path, model: Path, training: Any) -> dict[str, float]:
    import keras

    from components.training import feed, loop

    network = keras.saving.load_model(model, compile=False)
    shards = Shards.load(shards_folder)
    shape = feed.Shape(training.height, training.width, training.channels, training.aspect)
    scores = {}
    for part in PARTS:
        pictures, labels = feed.read(shards_folder, shards.parts[part], shape, limit=10_000)
        scores[part] = loop.validate(network, pictures, labels, 64)["val_accuracy"]
    return scores


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'architecture':<14} {'parameters':>10} {'train':>7} {'test':>7} {'gap':>7} {'seconds':>8}"]
    for row in rows:
        lines.append(
            f"{row['name']:<14} {row['parameters']:>10,} {row['train']:>7.2%} {row['test']:>7.2%} "
            f"{row['train'] - row['test']:>7.2%} {row['seconds']:>8.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
