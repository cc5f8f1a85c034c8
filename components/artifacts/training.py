"""Artifacts of training: the augmentation policy, the trained network, the SavedModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.data import SplitShards
from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class Augmentation(Record):
    """The augmentation policy. `extra`: shards of offline augmentation, if requested."""

    FILE: ClassVar[str] = "augmentation.json"

    policy: Mapping[str, float]
    extra: SplitShards | None = None
    why: str = ""  # why images are flipped or not, in one sentence


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
    epochs: int  # completed
    best_epoch: int  # 1-based, whose weights these are
    history: tuple[Mapping[str, float], ...]  # one per epoch: loss, accuracy, val_loss, val_accuracy, …
    precision: str  # "float32", "mixed_bfloat16"
    seed: int
    aspect: str = "stretch"  # how other aspect ratios are fitted, see components/imaging/decode.py


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
    weights_sha256: str = ""  # of its variables alone; empty in versions from before it was recorded
    max_pixels: int = 0  # larger images are refused; 0 in versions from before it was recorded
