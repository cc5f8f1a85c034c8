"""What evaluation leaves: scores, and golden requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class ClassScore:
    """How one class did on a part."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int  # images of this class
    precision_interval: tuple[float, float] | None = None  # 95%, Wilson; None without images
    recall_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Paired:
    """Another accuracy beside the model's own, on the same images of the test part (or a sample of it)."""

    name: str
    num_images: int
    accuracy: float  # of the other
    difference: float  # -1 to 1; of what to what, see Evaluation
    interval: tuple[float, float]  # 95%, of the difference
    p_value: float  # exact McNemar test, two-sided


@dataclass(frozen=True)
class Evaluation(Record):
    """What a SavedModel scored on the test part. predictions.parquet has a row an image:

    id str, path str, label str, predicted str, probability float32, probabilities list<float32>
    """

    FILE: ClassVar[str] = "evaluation.json"

    labels: tuple[str, ...]
    num_images: int
    accuracy: float
    macro_f1: float
    top_k: Mapping[str, float]  # "3" -> share of images whose class is among the 3 likeliest
    log_loss: float
    train_accuracy: float | None  # on the training part, or a seeded sample of it
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted]
    num_train: int = 0  # images behind train_accuracy
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # figure -> 95% interval
    calibration_error: float | None = None  # expected calibration error, 0 to 1
    baselines: tuple[Paired, ...] = ()  # what needs no network; difference: model - baseline
    robustness: tuple[Paired, ...] = ()  # images changed mildly; difference: changed - as they are

    def __str__(self) -> str:
        low, high = self.intervals.get("accuracy", (0.0, 1.0))
        return (
            f"accuracy {self.accuracy:.1%} ({low:.1%} to {high:.1%} with 95% confidence), "
            f"macro F1 {self.macro_f1:.1%}, {self.num_images} images, {len(self.labels)} classes"
        )


@dataclass(frozen=True)
class GoldenRequest:
    """An image and the answer that the model gave to it when it was evaluated."""

    image: str  # base64 of the encoded image
    probabilities: tuple[float, ...]
    label: str


@dataclass(frozen=True)
class GoldenRequests(Record):
    """A few images of the test part by which a server proves that it serves this model."""

    FILE: ClassVar[str] = "golden.json"

    labels: tuple[str, ...]
    requests: tuple[GoldenRequest, ...]
