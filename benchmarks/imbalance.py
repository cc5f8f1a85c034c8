"""Imbalance: recall of a class reduced to a tenth, with and without what training can do about it.

scripts/bench imbalance [--dataset ../shared/data/leaves] [--rare ulmus_rubra] [--seeds 2] [--size 64]
                        [--out build/bench/imbalance] [--json]

A tenth of the rare class's images stays for training; all that are taken away are tested, so its recall is
known well. Every way of training sees the same images. What was measured before is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training import prepare, read, write
from pergola.components import settings as config
from pergola.components.artifacts.data import TEST, Shards
from pergola.components.artifacts.training import Training
from pergola.components.stats.metrics import wilson_interval
from pergola.components.training.augmentation.augment import augment
from pergola.components.training.fit import MODEL, fit
from pergola.components.training.input.images import ImageShape, read_split

DATASET = Path("../shared/data/leaves")
WAYS = {
    "nothing": ("train.balance=off",),
    "class weights": ("train.balance=on",),
    "balanced sampling": ("train.balance=sample",),
    "focal loss, gamma 2": ("train.balance=off", "train.focal=2.0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench imbalance", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, default=DATASET)
    parser.add_argument("--rare", default="ulmus_rubra", help="class that is reduced to a tenth")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="side of the network's input in pixels")
    parser.add_argument("--out", type=Path, default=Path("build/bench/imbalance"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    dataset = listed(asked.dataset.absolute(), asked.rare, asked.out / asked.rare)
    shards = prepare(dataset, asked.out / asked.rare)
    found = []
    for way, settings in WAYS.items():
        runs = [
            one(shards, asked.rare, (*settings, f"model.image_size={asked.size}"), seed, asked.out)
            for seed in range(asked.seeds)
        ]
        found.append({"way": way, **summary(runs)})
        if not asked.json:
            print(line(found[-1]), flush=True)
    if asked.json:
        print(
            json.dumps({"dataset": asked.dataset.name, "rare": asked.rare, "size": asked.size, "ways": found})
        )


def listed(dataset: Path, rare: str, out: Path) -> Path:
    """A list of all images with their parts: a tenth of the rare class is for training and validation."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "list.csv"
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(("path", "label", "split"))
        for folder in sorted(path for path in dataset.iterdir() if path.is_dir()):
            writer.writerows(_parts(folder, 0.1 if folder.name == rare else 1.0))
    return file


def _parts(folder: Path, kept: float) -> Iterator[tuple[str, str, str]]:
    paths = sorted(folder.glob("*.jpg"))
    order = np.random.default_rng(zlib.crc32(folder.name.encode())).permutation(len(paths))
    train, validation = round(0.7 * kept * len(paths)), round(0.15 * kept * len(paths))
    for place, number in enumerate(order):
        part = "train" if place < train else "validation" if place < train + validation else "test"
        yield str(paths[number]), folder.name, part


def one(shards: Path, rare: str, settings: Sequence[str], seed: int, out: Path) -> dict[str, Any]:
    """One training: images of the test part, right ones and answers, by class."""
    file = out / rare / f"{'-'.join(settings)}-{seed}.json"
    if known := read(file):
        return known
    chosen = config.load(None, settings)
    work = file.with_suffix("")
    augment(shards, work / "augmentation", chosen.augment, seed=seed)
    training = fit(
        shards, work / "augmentation", work / "training", chosen.model, replace(chosen.train, seed=seed)
    )
    labels, answers = _answers(shards, work / "training", training)
    names = Shards.load(shards).labels
    place = names.index(rare)
    found = {
        "images": int(np.sum(labels == place)),
        "right": int(np.sum((labels == place) & (answers == place))),
        "others": int(np.sum(labels != place)),
        "others_right": int(np.sum((labels != place) & (labels == answers))),
        "others_called_rare": int(np.sum((labels != place) & (answers == place))),
    }
    write(file, found)
    return found


def _answers(shards: Path, folder: Path, training: Training) -> tuple[Any, Any]:
    import keras

    network = keras.saving.load_model(folder / MODEL, compile=False)
    shape = ImageShape(training.height, training.width, training.channels, training.aspect)
    images, labels = read_split(shards, Shards.load(shards).splits[TEST], shape)
    return labels, network.predict(images.astype(np.float32), batch_size=64, verbose=0).argmax(axis=1)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Recall of the rare class: of each seed, the mean, and the interval that its images leave it."""
    right, images = (float(np.mean([run[key] for run in runs])) for key in ("right", "images"))
    return {
        "recall": right / images,
        "interval": wilson_interval(right, round(images)),
        "recalls": [run["right"] / run["images"] for run in runs],
        "others": float(np.mean([run["others_right"] / run["others"] for run in runs])),
        "called_rare": float(np.mean([run["others_called_rare"] / run["others"] for run in runs])),
    }


def line(found: dict[str, Any]) -> str:
    """What a person reads."""
    low, high = found["interval"]
    seeds = ", ".join(f"{recall:.1%}" for recall in found["recalls"])
    return (
        f"{found['way']:22} recall of the rare class {found['recall']:.1%} ({low:.1%} to {high:.1%}; seeds: "
        f"{seeds}), accuracy of the others {found['others']:.1%}, {found['called_rare']:.1%} called rare"
    )


if __name__ == "__main__":
    main()
