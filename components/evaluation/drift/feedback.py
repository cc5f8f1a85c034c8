"""True labels for logged requests: the accuracy of a model in production.

An image counts once per version, however often it was requested. An image's id is the SHA-256 of the bytes
that the server received.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.request_log import Logged
from pergola.components.stats.metrics import wilson_interval


@dataclass(frozen=True)
class Answered:
    """A labelled request: the prediction of a version and the true label."""

    id: str
    version: int
    label: str  # true
    predicted: str
    probability: float
    at_s: int  # first request, seconds since 1970


@dataclass(frozen=True)
class Feedback(Record):
    """All labels given for requests to a model."""

    FILE: ClassVar[str] = "feedback.json"

    rows: tuple[Answered, ...] = ()

    def labels(self) -> dict[str, str]:
        """Id -> true label."""
        return {row.id: row.label for row in self.rows}


@dataclass(frozen=True)
class ClassAccuracy:
    """The recall of a class on labelled requests."""

    label: str
    num_images: int
    num_right: int
    recall: float
    interval: tuple[float, float]  # 95%, Wilson


@dataclass(frozen=True)
class LiveAccuracy:
    """The accuracy of a version on labelled requests."""

    version: int
    num_images: int
    num_right: int
    accuracy: float
    interval: tuple[float, float]  # 95%, Wilson
    classes: tuple[ClassAccuracy, ...]


def image_id(image: bytes) -> str:
    """The id of a logged image."""
    return hashlib.sha256(image).hexdigest()


def answered(
    logged: Iterable[Logged],
    labels: Mapping[str, str],
    names_of: Callable[[int], Sequence[str] | None],
    on_image: Callable[[str, bytes], None] = lambda id, image: None,
) -> list[Answered]:
    """The logged images in `labels` (id -> true label), one row per image and version.

    names_of: version -> its classes; None if they are unknown, whose requests are skipped.
    on_image: called once with each id and image.
    """
    found: dict[tuple[str, int], Answered] = {}
    seen: set[str] = set()
    for one in logged:
        id = image_id(one.image)
        if id not in labels or (id, one.version) in found:
            continue
        names = names_of(one.version)
        if names is None or len(names) != len(one.probabilities):
            continue
        best = int(one.probabilities.argmax())
        found[id, one.version] = Answered(
            id, one.version, labels[id], names[best], float(one.probabilities[best]), one.at_s
        )
        if id not in seen:
            seen.add(id)
            on_image(id, one.image)
    return list(found.values())


def merge(old: Feedback, new: Iterable[Answered], *, replace: bool = False) -> Feedback:
    """Old and new rows without duplicates, by version and id.

    Raises InputError if an image gets another label than before, unless `replace`.
    """
    new = list(new)
    labels, known = {row.id: row.label for row in new}, old.labels()
    changed = sorted(id for id, label in labels.items() if known.get(id, label) != label)
    if changed and not replace:
        first = changed[0]
        raise InputError(
            f"{len(changed)} images have another label than before, the first {first}: "
            f"'{labels[first]}', was '{known[first]}'. Correct the list, or use the new labels with "
            "--replace. Nothing was imported."
        )
    rows = {(row.version, row.id): row for row in new}
    for row in old.rows:
        label = labels.get(row.id, row.label)
        rows[row.version, row.id] = Answered(
            row.id, row.version, label, row.predicted, row.probability, row.at_s
        )
    return Feedback(tuple(rows[key] for key in sorted(rows)))


def live_accuracy(feedback: Feedback) -> tuple[LiveAccuracy, ...]:
    """Accuracy and recall of each version on labelled requests, the newest version first."""
    versions = sorted({row.version for row in feedback.rows}, reverse=True)
    return tuple(
        _accuracy(version, [row for row in feedback.rows if row.version == version]) for version in versions
    )


def _accuracy(version: int, rows: Sequence[Answered]) -> LiveAccuracy:
    right = sum(row.label == row.predicted for row in rows)
    by_class: dict[str, list[bool]] = {}
    for row in rows:
        by_class.setdefault(row.label, []).append(row.label == row.predicted)
    classes = tuple(
        ClassAccuracy(
            label, len(hits), sum(hits), sum(hits) / len(hits), wilson_interval(sum(hits), len(hits))
        )
        for label, hits in sorted(by_class.items())
    )
    return LiveAccuracy(
        version, len(rows), right, right / len(rows), wilson_interval(right, len(rows)), classes
    )
