"""Baseline comparison: accuracy and training time of architectures trained with the same settings."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pergola.components import digest, records
from pergola.components.artifacts.data import TEST, TRAIN, Shards
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.training import Training
from pergola.components.errors import InputError
from pergola.components.progress import Progress, silent
from pergola.components.training.fit import MODEL, TrainSettings, fit
from pergola.components.training.models.architectures import ModelSettings

MAX_SCORED = 10_000  # images of a split


@dataclass(frozen=True)
class ComparedNetwork(Record):
    """The result of one architecture."""

    FILE: ClassVar[str] = "row.json"

    key: str  # of the data and the settings
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
        """Training accuracy less test accuracy: overfitting."""
        return self.train_accuracy - self.test_accuracy


Row = ComparedNetwork  # the old name, until all callers have the new one


def published(train: TrainSettings, epochs: int) -> TrainSettings:
    """The training of the textbook sources: Adam at a constant 0.001, batches of 32, float32."""
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
    on_row: Callable[[ComparedNetwork, bool], None] = lambda row, is_new: None,
) -> tuple[ComparedNetwork, ...]:
    """Train each architecture in out/<name>/ and score it. Finished ones are not trained again.

    on_row: called with each result, and whether this call produced it.
    """
    rows = []
    for name in names:
        network = replace(model, architecture=name)
        key = _key(shards_folder, augmentation_folder, network, train)
        known = _finished(out / name, key)
        row = known or _train(
            key, name, shards_folder, augmentation_folder, out / name, network, train, progress
        )
        on_row(row, known is None)
        rows.append(row)
    return tuple(rows)


def accuracy(shards_folder: Path, training_folder: Path, split: str) -> float:
    """Accuracy of the saved float32 network on a split, without augmentation, on at most 10,000 images."""
    import keras

    from pergola.components.training import validation
    from pergola.components.training.input.images import ImageShape, read_split

    training, shards = Training.load(training_folder), Shards.load(shards_folder)
    network = keras.saving.load_model(training_folder / MODEL, compile=False)
    shape = ImageShape(training.height, training.width, training.channels, training.aspect)
    images, labels = read_split(shards_folder, shards.splits[split], shape, limit=MAX_SCORED)
    return validation.validate(validation.forward_of(network), images, labels, 64)["val_accuracy"]


def _train(
    key: str, name: str, shards: Path, augmentation: Path, out: Path, model: ModelSettings,
    train: TrainSettings, progress: Progress,
) -> ComparedNetwork:  # fmt: skip
    figures: dict[str, float] = {}
    training = fit(shards, augmentation, out, model, train, progress=progress,
                   on_epoch=lambda epoch, metrics: figures.update(metrics))  # fmt: skip
    row = ComparedNetwork(
        key, name, training.num_parameters, training.height, training.width, training.epochs,
        accuracy(shards, out, TRAIN), accuracy(shards, out, TEST), round(figures["seconds"], 2),
    )  # fmt: skip
    row.save(out)
    return row


def _finished(folder: Path, key: str) -> ComparedNetwork | None:
    """The result of an earlier call with the same data and settings; one of others is deleted."""
    if not (folder / ComparedNetwork.FILE).is_file():
        return None
    with contextlib.suppress(InputError):  # damaged, or of another version of pergola
        row = ComparedNetwork.load(folder)
        if row.key == key:
            return row
    shutil.rmtree(folder)
    return None


def _key(shards: Path, augmentation: Path, model: ModelSettings, train: TrainSettings) -> str:
    parts: list[Any] = [records.to_dict(model), records.to_dict(train)]
    return digest.of_data([Shards.load(shards).fingerprint, digest.of_folder(augmentation), *parts])
