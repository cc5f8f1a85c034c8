"""Architectures compared under one budget: parameters, training and test accuracy, their gap, seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pergola.components import digest, records
from pergola.components.artifacts.data import TEST, TRAIN, Shards
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.training import Training
from pergola.components.progress import Progress, silent
from pergola.components.training.fit import MODEL, TrainSettings, fit
from pergola.components.training.models.architectures import ModelSettings

MOST_SCORED = 10_000  # images of a part


@dataclass(frozen=True)
class Row(Record):
    """One architecture."""

    FILE: ClassVar[str] = "row.json"

    key: str  # of data and settings
    name: str
    num_parameters: int
    height: int  # of its input, pixels
    width: int
    epochs: int
    train_accuracy: float
    test_accuracy: float
    seconds: float  # of training steps, in all attempts

    @property
    def gap(self) -> float:
        """How much better it knows what it was trained on: overfitting."""
        return self.train_accuracy - self.test_accuracy


def published(train: TrainSettings, epochs: int) -> TrainSettings:
    """Training as the sources of the ladder do it: Adam at a constant 0.001, batches of 32, float32."""
    return replace(
        train,
        epochs=epochs,
        batch_size=32,
        optimizer="adam",
        learning_rate=1e-3,
        warmup=0.0,
        schedule="constant",
        weight_decay=0.0,
        label_smoothing=0.0,
        average=0.0,
        patience=epochs,
        balance="off",
        precision="float32",
    )


def compare(
    shards_folder: Path,
    augmentation_folder: Path,
    out: Path,
    names: Sequence[str],
    model: ModelSettings,
    train: TrainSettings,
    *,
    progress: Progress = silent,
    on_row: Callable[[Row, bool], None] = lambda row, is_new: None,
) -> tuple[Row, ...]:
    """Train each architecture in out/<name>/ and score it. What is there already is not done again.

    on_row: called with each finished row, and whether this call made it.
    """
    rows = []
    for name in names:
        how = replace(model, architecture=name)
        key = _key(shards_folder, augmentation_folder, how, train)
        known = _finished(out / name, key)
        row = known or _row(key, name, shards_folder, augmentation_folder, out / name, how, train, progress)
        on_row(row, known is None)
        rows.append(row)
    return tuple(rows)


def accuracy(shards_folder: Path, training_folder: Path, part: str) -> float:
    """Of the saved float32 network on a part's plain images, at most 10,000 of them."""
    import keras

    from pergola.components.training import loop
    from pergola.components.training.input import feed

    training, shards = Training.load(training_folder), Shards.load(shards_folder)
    network = keras.saving.load_model(training_folder / MODEL, compile=False)
    shape = feed.Shape(training.height, training.width, training.channels, training.aspect)
    images, labels = feed.read(shards_folder, shards.parts[part], shape, limit=MOST_SCORED)
    return loop.validate(loop.forward_of(network), images, labels, 64)["val_accuracy"]


def _row(
    key: str, name: str, shards: Path, augmentation: Path, out: Path, model: ModelSettings,
    train: TrainSettings, progress: Progress,
) -> Row:  # fmt: skip
    figures: dict[str, float] = {}
    training = fit(shards, augmentation, out, model, train, progress=progress,
                   on_epoch=lambda epoch, metrics: figures.update(metrics))  # fmt: skip
    row = Row(
        key, name, training.num_parameters, training.height, training.width, training.epochs,
        accuracy(shards, out, TRAIN), accuracy(shards, out, TEST), round(figures["seconds"], 2),
    )  # fmt: skip
    row.save(out)
    return row


def _finished(folder: Path, key: str) -> Row | None:
    """The row of an earlier call for the same data and settings; what is of others is taken away."""
    if not (folder / Row.FILE).is_file():
        return None
    row = Row.load(folder)
    if row.key == key:
        return row
    shutil.rmtree(folder)
    return None


def _key(shards: Path, augmentation: Path, model: ModelSettings, train: TrainSettings) -> str:
    parts: list[Any] = [records.to_dict(model), records.to_dict(train)]
    return digest.of_data([Shards.load(shards).fingerprint, digest.of_folder(augmentation), *parts])
