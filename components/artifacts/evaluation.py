"""Artifacts of evaluation: metrics and golden requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class ClassScore:
    """Metrics of one class on a split; None where no image tests them."""

    label: str
    precision: float | None  # None also if no image was predicted as this class
    recall: float | None
    f1: float | None
    support: int  # images of this class
    precision_interval: tuple[float, float] | None = None  # 95%, Wilson; None without images
    recall_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Paired:
    """Another accuracy compared with the model's, on the same images of the test split (or a sample)."""

    name: str
    num_images: int
    accuracy: float  # of the other
    difference: float  # -1 to 1; see Evaluation for its sign
    interval: tuple[float, float]  # 95%, of the difference
    p_value: float  # exact McNemar test, two-sided


@dataclass(frozen=True)
class Evaluation(Record):
    """The metrics of a SavedModel on the test split. predictions.parquet has one row per image:

    id str, path str, label str, predicted str, probability float32, probabilities list<float32>
    """

    FILE: ClassVar[str] = "evaluation.json"

    labels: tuple[str, ...]
    num_images: int
    accuracy: float
    macro_f1: float
    top_k: Mapping[str, float]  # "3" -> share of images whose class is among the 3 most likely
    log_loss: float
    train_accuracy: float | None  # on the training split, or a seeded sample of it
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted]
    num_train: int = 0  # images behind train_accuracy
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # metric -> 95% interval
    calibration_error: float | None = None  # expected calibration error, 0 to 1
    baselines: tuple[Paired, ...] = ()  # difference: model - baseline
    robustness: tuple[Paired, ...] = ()  # mildly changed images; difference: changed - unchanged

    def __str__(self) -> str:
        low, high = self.intervals.get("accuracy", (0.0, 1.0))
        return (
            f"accuracy {self.accuracy:.1%} ({low:.1%} to {high:.1%} with 95% confidence), "
            f"macro F1 {self.macro_f1:.1%}, {self.num_images} images, {len(self.labels)} classes"
        )


@dataclass(frozen=True)
class GoldenRequest:
    """An image and the model's answer when it was evaluated."""

    image: str  # base64 of the encoded image
    probabilities: tuple[float, ...]
    label: str
    decisions: tuple[str, ...] = ()  # the cheapest, and those that cost about as much; empty without costs
    outputs: Mapping[str, Any] = field(default_factory=dict)  # all others: name -> `plain` value


@dataclass(frozen=True)
class GoldenRequests(Record):
    """A few test images by which a server is checked to serve this model."""

    FILE: ClassVar[str] = "golden.json"

    labels: tuple[str, ...]
    requests: tuple[GoldenRequest, ...]
    outputs: tuple[str, ...] = ()  # names of all outputs of the model; empty if they were not recorded


def plain(value: Any) -> Any:
    """A value of an array's `tolist()`, at any depth, with text where it has bytes."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
