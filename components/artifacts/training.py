"""What training leaves: how images are varied, the network, the SavedModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.data import Part
from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class Augmentation(Record):
    """How training images are varied. `extra` are expanded shards, when asked for."""

    FILE: ClassVar[str] = "augmentation.json"

    policy: Mapping[str, float]
    extra: Part | None = None
    why: str = ""  # why images are mirrored, or are not, in one sentence


@dataclass(frozen=True)
class Training(Record):
    """A trained network, as `model.keras` beside this record (no optimiser state)."""

    FILE: ClassVar[str] = "training.json"

    architecture: str
    why: str  # why this architecture, in one sentence
    labels: tuple[str, ...]
    height: int  # of the network's input, pixels
    width: int
    channels: int
    num_parameters: int
    epochs: int  # trained
    best_epoch: int  # 1-based, whose weights these are
    history: tuple[Mapping[str, float], ...]  # one an epoch: loss, accuracy, val_loss, val_accuracy, …
    precision: str  # "float32", "mixed_bfloat16"
    seed: int
    aspect: str = "stretch"  # what becomes of other aspects, see components/imaging/decode.py


@dataclass(frozen=True)
class Export(Record):
    """A SavedModel in saved_model/ with the signatures of serving/wire/contract.py."""

    FILE: ClassVar[str] = "export.json"

    labels: tuple[str, ...]
    height: int
    width: int
    channels: int
    num_bytes: int
    sha256: str  # of the folder, see components/digest.py
    weights_sha256: str = ""  # of its variables alone; empty in versions from before it was noted
