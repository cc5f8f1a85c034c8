"""Accuracy and time of training on real images, compared with the targets.

scripts/bench training [CASE …] [--seeds 5] [--out build/bench/training] [--list] [--json] [--image FILE]

Without CASE it runs all of them. The results of each training are written as soon as it is finished, and an
interrupted training is resumed, so the same command can be repeated. Seconds are wall time from the shards to
the saved network: decoding, augmentation, training, choosing the best epoch. Accuracy is that of the saved
float32 network on the test split and, without augmentation, on the training split.

A case with `published` also trains a network with its published hyperparameters (Adam, batch 32, float32,
pixels from 0 to 1, no augmentation) for two epochs, in the same process, and extrapolates. The ratio compares
the seconds of training steps: reading, decoding and validation are the same for both and are not included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import training_curves
from pergola.components import digest, records
from pergola.components import settings as config
from pergola.components.artifacts.data import TEST, TRAIN
from pergola.components.artifacts.training import Augmentation
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.shards import ShardSettings, write_shards
from pergola.components.data.sources.source import open_source
from pergola.components.data.split import SplitSettings, split
from pergola.components.training.augmentation.augment import augment
from pergola.components.training.fit import TrainSettings, fit
from pergola.components.training.models.architectures import ModelSettings
from pergola.components.training.search import comparison

DATA = Path(__file__).parents[1] / "../shared/data"
OUT = Path("build/bench/training")
WEIGHTS = DATA / "weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
MOBILENET = (f"model.weights={WEIGHTS}",)
PLAIN = tuple(f"augment.{key}=0" for key in ("rotation_degrees", "shift", "zoom", "brightness", "contrast"))
DEFAULT_SPLIT = SplitSettings()
TIMED = 2  # epochs of the published training that are really trained


@dataclass(frozen=True)
class Case:
    """A training and its targets."""

    data: str  # below ../shared/data
    minutes: float  # of one seed on two cores, expected
    settings: tuple[str, ...] = ()
    accuracy: float = 0.0  # on the test split, at least
    seconds: float = 0.0  # at most; 0: no target
    gap: float = 0.0  # training minus test accuracy, at most; 0: no target
    published: tuple[str, int] | None = None  # architecture and epochs of the source
    share: float = 0.0  # of the published training's time, at most


CIFAR = "cifar10/cifar10_jpeg_q75_60000.tar.xz"
CASES = {
    "leaves-pretrained": Case("leaves", 3, MOBILENET, accuracy=0.985, seconds=180),
    "grocery-pretrained": Case("grocery-ingredients", 3, MOBILENET, accuracy=0.96, gap=0.02),
    "grocery-varied": Case(
        "grocery-ingredients", 8,
        (*MOBILENET, "model.image_size=256", "train.unfreeze=[1.0]", "train.epochs=14", "augment.mixup=0.5",
         "augment.cutout=0.3"), accuracy=0.96, gap=0.02,
    ),
    "leaves": Case("leaves", 2, accuracy=0.93),
    "fashion": Case("fashion-mnist", 9, ("model.width=32",), accuracy=0.935, seconds=600),
    "fashion-quick": Case(
        "fashion-mnist", 1, ("model.width=24", "train.epochs=2", *PLAIN), accuracy=0.9054,
        published=("fashion_cnn", 30), share=1 / 40,
    ),
    "cifar10": Case(CIFAR, 8, accuracy=0.91, seconds=2400),
    "cifar10-pretrained": Case(
        CIFAR, 30, (*MOBILENET, "model.image_size=96", "train.epochs=8", "train.unfreeze=[1.0]",
                    "train.unfreeze_rate=0.2", "split.validation=0.05"), accuracy=0.91, seconds=2400,
    ),
    "cifar10-quick": Case(
        CIFAR, 1, ("model.image_size=24", "model.width=24", "model.dropout=0", "train.epochs=2",
                   "train.batch_size=256", *PLAIN), accuracy=0.7211,
        published=("cnn_dropout", 20), share=1 / 10,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench training", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override settings"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--prepare", action="store_true", help="only write the shards")
    parser.add_argument("--list", action="store_true", help="list the cases and how long they take")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--image", type=Path, metavar="FILE.svg", help="plot the curves of the results")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"unknown case {', '.join(unknown)}; known: {', '.join(CASES)}")
    names = options.cases or list(CASES)
    if options.list:
        print(plan(names, options.seeds))
        return
    if options.prepare:
        for name in names:
            print(shards_of(CASES[name], options.out))
        return
    results = []
    for name in names:
        case = replace(CASES[name], settings=(*CASES[name].settings, *options.set))
        results.append(measured(name, case, options.seeds, options.out))
        if not options.json:
            print(line(results[-1]), flush=True)
    if options.image:
        training_curves.draw({result["case"]: result["runs"] for result in results}, options.image)
    if options.json:
        print(json.dumps({"cores": len(os.sched_getaffinity(0)), "cases": results}))


def plan(names: Sequence[str], seeds: int) -> str:
    """The cases and their expected duration."""
    lines = [
        f"{name:<20}{CASES[name].data:<44}about {CASES[name].minutes * seeds:4.0f} min" for name in names
    ]
    lines.append(
        f"{seeds} seeds, together about {sum(CASES[n].minutes for n in names) * seeds / 60:.1f} hours"
    )
    return "\n".join(lines)


def measured(name: str, case: Case, seeds: int, out: Path) -> dict[str, Any]:
    """Mean and standard deviation over seeds, and whether the targets are met."""
    shards = shards_of(case, out)
    runs = [one(shards, case, seed, out / f"{name}-{seed}") for seed in range(seeds)]
    figures = {key: spread([run[key] for run in runs]) for key in runs[0] if isinstance(runs[0][key], float)}
    result = {"case": name, "settings": list(case.settings), "seeds": seeds, **figures, "runs": runs}
    if case.published:
        result["published"] = published(shards, *case.published, out)
        result["share"] = figures["step_seconds"]["mean"] / result["published"]["seconds"]
    result["promises"] = targets(case, result)
    return result


def one(shards: Path, case: Case, seed: int, out: Path) -> dict[str, Any]:
    """One training and its results; earlier results with the same settings are reused."""
    file = out.with_suffix(".json")
    if (known := read(file)).get("settings") == list(case.settings):
        return known
    import tensorflow  # noqa: F401 - not included in the seconds

    settings = config.load(None, case.settings)
    speed: dict[str, float] = {}
    curve = []

    def on_epoch(epoch: int, figures: Mapping[str, float]) -> None:
        speed.update(figures)
        curve.append(dict(figures))

    begin, cpu = time.perf_counter(), time.process_time()
    augment(shards, out / "augmentation", settings.augment, seed=seed)
    train_settings = replace(settings.train, seed=seed)
    training = fit(
        shards, out / "augmentation", out / "training", settings.model, train_settings, on_epoch=on_epoch
    )
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    train, test = (comparison.accuracy(shards, out / "training", part) for part in (TRAIN, TEST))
    figures = {
        "settings": list(case.settings), "architecture": training.architecture,
        "parameters": training.num_parameters, "input": [training.height, training.width, training.channels],
        "precision": training.precision, "epochs": training.epochs, "train": train, "test": test,
        "gap": train - test, "seconds": seconds, "cpu_seconds": cpu_seconds,
        "step_seconds": speed["seconds"], "images_per_s": speed["images_per_s"],
        "input_wait": speed["input_wait"], "curve": curve,
    }  # fmt: skip
    write(file, figures)
    return figures


def published(shards: Path, architecture: str, epochs: int, out: Path) -> dict[str, Any]:
    """Seconds of the published training, extrapolated from two epochs."""
    file = out / f"published-{architecture}.json"
    if known := read(file):
        return known
    Augmentation({}).save(out / "plain")
    settings = comparison.published(TrainSettings(), TIMED)
    speed: dict[str, float] = {}
    fit(shards, out / "plain", out / f"published-{architecture}",
        ModelSettings(architecture=architecture, scaling="unit"), settings,
        on_epoch=lambda epoch, figures: speed.update(figures))  # fmt: skip
    seconds = speed["seconds"] * epochs / TIMED
    figures = {"architecture": architecture, "epochs": epochs, "timed_epochs": TIMED, "seconds": seconds}
    write(file, figures)
    return figures


def shards_of(case: Case, out: Path) -> Path:
    """The folder of a case's shards."""
    return prepare(DATA / case.data, out, config.load(None, case.settings).split)


def prepare(data: Path, out: Path, settings: SplitSettings = DEFAULT_SPLIT) -> Path:
    """The folder of shards of a dataset, split as in `pergola run`; written once for each split."""
    other = "" if settings == DEFAULT_SPLIT else f"-{digest.of_data(records.to_dict(settings))[:8]}"
    folder = out / f"data-{data.name.partition('.')[0]}{other}"
    if not (folder / "shards" / "shards.json").is_file():
        source = open_source(data, ScanSettings(), folder / "source")
        scan(source, folder / "manifest", ScanSettings(), previous=None)
        report = validate(folder / "manifest", ValidateSettings())
        split(folder / "manifest", report, folder / "split", settings, previous=None)
        write_shards(source, folder / "manifest", folder / "split", folder / "shards", ShardSettings())
    return folder / "shards"


def targets(case: Case, result: Mapping[str, Any]) -> dict[str, bool]:
    """Which targets the means meet."""
    found = {}
    if case.accuracy:
        found[f"accuracy >= {case.accuracy:.2%}"] = result["test"]["mean"] >= case.accuracy
    if case.seconds:
        found[f"seconds <= {case.seconds:.0f}"] = result["seconds"]["mean"] <= case.seconds
    if case.gap:
        found[f"gap <= {100 * case.gap:.0f} points"] = result["gap"]["mean"] <= case.gap
    if case.share:
        found[f"time <= 1/{1 / case.share:.0f} of the published"] = result["share"] <= case.share
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and, with several values, standard deviation."""
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values) if values[1:] else 0.0}


def line(result: Mapping[str, Any]) -> str:
    """A case's results in one line."""
    verdicts = ", ".join(f"{name}: {'met' if met else 'MISSED'}" for name, met in result["promises"].items())
    share = (
        f", 1/{1 / result['share']:.1f} of {result['published']['seconds']:.0f} s"
        if "share" in result
        else ""
    )
    return (
        f"{result['case']:<20}test {result['test']['mean']:.2%} ± {result['test']['deviation']:.2%}, "
        f"gap {100 * result['gap']['mean']:.1f} points, {result['seconds']['mean']:.0f} ± "
        f"{result['seconds']['deviation']:.0f} s{share}, {result['images_per_s']['mean']:.0f} images/s, "
        f"{result['input_wait']['mean']:.1%} waiting; {verdicts}"
    )


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def write(file: Path, figures: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(figures, indent=1) + "\n")
    os.replace(partial, file)


if __name__ == "__main__":
    main()
