"""Training on a data set by the defaults: accuracy, time, and how much of it waits for input.

scripts/bench training [DATA] [--set section.key=value …] [--seeds 1] [--no-train] [--json]
DATA defaults to ../shared/data/leaves; anything that `pergola run` takes. Sections are augment, model and
train. Accuracy is that of the saved float32 network. Waiting is what steps take longer with the real input
than with one batch given again and again, in turns, in the same process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.artifacts import PARTS, Shards, Training
from components.data.scan import ScanSettings, scan
from components.data.shards import ShardSettings, write_shards
from components.data.sources import open_source
from components.data.split import SplitSettings, split
from components.data.validate import ValidateSettings, validate
from pipelines import config
from pipelines.config import Settings

LEAVES = Path(__file__).parents[1] / "../shared/data/leaves"
_STEPS, _TURNS = 12, 3


@dataclass(frozen=True)
class Trained:
    """One training and what came of it."""

    training: Training
    accuracy: Mapping[str, float]  # by part
    seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench training", description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=LEAVES)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--no-train", action="store_true", help="only measure the input")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    settings = config.load(None, asked.set)
    with tempfile.TemporaryDirectory() as scratch:
        shards = prepare(asked.data, Path(scratch))
        result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "input": waiting(shards, settings)}
        if not asked.no_train:
            result["training"] = summary(
                train(shards, Path(scratch) / f"run-{seed}", settings, seed) for seed in range(asked.seeds)
            )
    print(json.dumps(result) if asked.json else table(result))


def prepare(data: Path, scratch: Path) -> Path:
    """The folder of shards of a data set, split as `pergola run` splits it."""
    source = open_source(data, ScanSettings(), scratch / "source")
    scan(source, scratch / "manifest", ScanSettings(), previous=None)
    report = validate(scratch / "manifest", ValidateSettings())
    split(scratch / "manifest", report, scratch / "split", SplitSettings(), previous=None)
    write_shards(source, scratch / "manifest", scratch / "split", scratch / "shards", ShardSettings())
    return scratch / "shards"


def train(shards_folder: Path, out: Path, settings: Settings, seed: int) -> Trained:
    """Augment and train by the settings, then score every part with the saved network."""
    import keras

    from components.training import feed, loop
    from components.training.augment import augment
    from components.training.fit import MODEL, fit

    how = replace(settings.train, seed=seed)
    start, cpu_start = time.perf_counter(), time.process_time()
    augment(shards_folder, out / "augmentation", settings.augment, seed=seed)
    training = fit(shards_folder, out / "augmentation", out / "training", settings.model, how)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    network = keras.saving.load_model(out / "training" / MODEL, compile=False)
    shards = Shards.load(shards_folder)
    shape = feed.Shape(training.height, training.width, training.channels, training.aspect)
    accuracy = {}
    for part in PARTS:
        pictures, labels = feed.read(shards_folder, shards.parts[part], shape, limit=10_000)
        accuracy[part] = loop.validate(network, pictures, labels, 64)["val_accuracy"]
    return Trained(training, accuracy, seconds, cpu_seconds)


def summary(runs: Iterable[Trained]) -> dict[str, Any]:
    """Mean and deviation over runs."""
    done = list(runs)
    first = done[0].training
    return {
        "architecture": first.architecture,
        "parameters": first.num_parameters,
        "input": [first.height, first.width, first.channels],
        "precision": first.precision,
        "epochs": [run.training.epochs for run in done],
        "seconds": spread([run.seconds for run in done]),
        "cpu_seconds": spread([run.cpu_seconds for run in done]),
        **{part: spread([run.accuracy[part] for run in done]) for part in PARTS},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean and, of several, standard deviation."""
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if values[1:] else 0.0}


def waiting(shards_folder: Path, settings: Settings) -> dict[str, float]:
    """Pictures/s of training steps with the real input and with one batch, and the share that waits."""
    import keras

    from components.training import architectures, feed, fit, material, precision, recipe
    from components.training.augment import augment

    with tempfile.TemporaryDirectory() as folder:
        augmentation = augment(shards_folder, Path(folder), settings.augment, seed=0)
        shards, model = Shards.load(shards_folder), settings.model
        plan = architectures.choose(model, shards)
        shape = feed.Shape(plan.height, plan.width, plan.channels, model.aspect)
        stuff = material.load(
            shards_folder, Path(folder), shards, augmentation, shape, settings.train.memory_mb
        )
    how = recipe.decide(
        settings.train,
        side=min(plan.height, plan.width),
        num_train=stuff.num_train,
        is_pretrained=architectures.is_pretrained(model, plan),
    )
    keras.utils.set_random_seed(0)
    with precision.policy(precision.choose(settings.train.precision)[0]):
        network = architectures.build(plan, model, stuff.statistics, fused=True)
    fit._enter(network, how, how.stages[0])
    source = stuff.feed(how.batch_size, 0, augmentation, settings.train.balance)
    return _compare(network, source, how.batch_size)


def _compare(network: Any, source: Any, batch_size: int) -> dict[str, float]:
    def run(batches: Any) -> float:
        start = time.perf_counter()
        network.fit(batches, steps_per_epoch=_STEPS, epochs=1, shuffle=False, verbose=0)
        return time.perf_counter() - start

    one = source.batches(0, 1).cache().repeat()
    run(one), run(source.batches(0, _STEPS))  # what is traced once is not measured
    same, real = [], []
    for turn in range(_TURNS):
        same.append(run(one))
        real.append(run(source.batches(turn * _STEPS, (turn + 1) * _STEPS)))
    pictures = _STEPS * batch_size
    slow, fast = statistics.median(real), statistics.median(same)
    return {
        "real_per_s": pictures / slow,
        "one_batch_per_s": pictures / fast,
        "waiting": max(0.0, 1.0 - fast / slow),
    }


def table(result: Mapping[str, Any]) -> str:
    lines = [
        f"{result['cores']} cores",
        "steps      {real_per_s:.0f} pictures/s, with one batch {one_batch_per_s:.0f}: "
        "{waiting:.0%} waits for input".format(**result["input"]),
    ]
    if "training" in result:
        run = result["training"]
        lines += [
            f"network    {run['architecture']}, {run['parameters']:,} parameters, input {run['input']}, "
            f"{run['precision']}, epochs {run['epochs']}",
            *(f"{part:<10} {run[part]['mean']:.4f} ± {run[part]['deviation']:.4f}" for part in PARTS),
            f"seconds    {run['seconds']['mean']:.0f} ± {run['seconds']['deviation']:.0f}, of the CPUs "
            f"{run['cpu_seconds']['mean']:.0f}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
