"""Check: images whose label is probably wrong.

A small model on embeddings predicts the class probabilities of each image out of fold
(components/stats/out_of_fold.py), and confident learning (components/stats/confident_learning.py) turns them
into a ranked list. This finds labels that disagree with those of similar images. It cannot find a class that
is wrong throughout, nor distinguish a wrong label from an unusual image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.artifacts.record import Record
from pergola.components.data.checks.facts import MAX_PATHS, CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.manifest.relabel import RELABEL_FILE, Suspect, write_relabel
from pergola.components.imaging.embeddings import principal
from pergola.components.records import setting
from pergola.components.stats import confident_learning, out_of_fold
from pergola.components.stats.cross_validation import enough_groups, group_numbers
from pergola.components.stats.metrics import wilson_interval

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

_TRUSTED = 0.96  # accuracy on labels that are not flagged, from which flagged labels are a warning
_READ_ONLY = 0o444


@dataclass(frozen=True)
class LabelErrorSettings:
    """How wrong labels are found."""

    folds: int = setting(5, "folds of the cross-validation; a class needs as many groups", low=2, high=50)
    num_components: int = setting(128, "principal components of the embedding", low=2, high=4096)
    max_listed: int = setting(1000, "images in the ranked list, most likely errors first", low=1)
    seed: int = setting(0, "seed of the folds", low=0)


@dataclass(frozen=True)
class LabelErrors(Record):
    """A ranked list of suspicious labels, worst first."""

    FILE: ClassVar[str] = "label_errors.json"

    num_images: int  # that the model could predict
    num_flagged: int
    accuracy: float  # of the model, out of fold, on images that are not flagged
    interval: tuple[float, float]  # 95%, Wilson
    suspects: tuple[Suspect, ...]
    not_judged: tuple[str, ...]  # classes with fewer groups than folds

    def save(self, folder: Path) -> None:
        """Write the record, and the ranked list for a person to copy and edit."""
        super().save(folder)
        write_relabel(self.suspects, folder / RELABEL_FILE)
        (folder / RELABEL_FILE).chmod(_READ_ONLY)  # edits here would be lost with the next run

    def without(self, reviewed: Collection[str]) -> LabelErrors:
        """Without the images whose labels a person has reviewed. reviewed: their ids."""
        left = tuple(suspect for suspect in self.suspects if suspect.id not in reviewed)
        gone = sum(s.flagged for s in self.suspects) - sum(s.flagged for s in left)
        return replace(self, suspects=left, num_flagged=self.num_flagged - gone)


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding when labels are flagged, and the ranked list."""
    features = facts.features
    if features is None:
        return CheckResult()
    errors = find_label_errors(
        features.vectors, features.ids, features.paths, features.labels, facts.groups
    ).without(facts.reviewed)
    found = finding(errors, facts.embedding.basis)
    return CheckResult((found,) if found else (), errors)


def find_label_errors(
    embeddings: Floats,
    ids: Sequence[str],
    paths: Sequence[str],
    labels: Sequence[str],
    groups: Mapping[str, str] | None = None,
    settings: LabelErrorSettings | None = None,
) -> LabelErrors:
    """The ranked list of suspicious labels. All arguments have a row per image.

    embeddings: float (N, D), from a model that was not trained on these labels. One that was has learned the
        wrong labels, too, and finds far fewer.
    groups: id -> group, for near-duplicates (ValidationReport.groups); a group is never predicted by a model
        that was trained on one of its images.
    """
    settings = settings or LabelErrorSettings()
    if not len(embeddings) == len(ids) == len(paths) == len(labels):
        raise ValueError(
            f"Expected a row, id, path and label per image. "
            f"Got {len(embeddings)}, {len(ids)}, {len(paths)} and {len(labels)}."
        )
    names, given = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
    group = group_numbers(ids, groups)
    enough = enough_groups(given, group, len(names), settings.folds)
    not_judged = tuple(str(name) for name in names[~enough])
    rows = np.flatnonzero(enough[given])
    if enough.sum() < 2:
        return LabelErrors(0, 0, 0.0, (0.0, 1.0), (), not_judged)
    known, truth = np.unique(given[rows], return_inverse=True)
    probabilities = out_of_fold.probabilities(
        principal(embeddings[rows], settings.num_components),
        truth,
        group[rows],
        folds=settings.folds,
        seed=settings.seed,
    )
    quality = confident_learning.self_confidence(truth, probabilities)
    flagged = confident_learning.flagged(truth, probabilities)
    order = np.argsort(quality, kind="stable")
    most_likely = names[known[probabilities.argmax(axis=1)]]
    right = int((probabilities.argmax(axis=1) == truth)[~flagged].sum())
    num_kept = int((~flagged).sum())
    listed = order[: settings.max_listed]
    suspects = tuple(
        Suspect(
            id=ids[rows[i]],
            path=paths[rows[i]],
            label=labels[rows[i]],
            suggested=str(most_likely[i]),
            quality=float(quality[i]),
            flagged=bool(flagged[i]),
        )
        for i in listed
    )
    return LabelErrors(
        num_images=len(rows),
        num_flagged=int(flagged.sum()),
        accuracy=right / max(1, num_kept),
        interval=wilson_interval(right, num_kept),
        suspects=suspects,
        not_judged=not_judged,
    )


def finding(errors: LabelErrors, basis: str = "") -> Finding | None:
    """The finding; None when no label is flagged.

    basis: what images are compared by, such as "plain features of shape and colour". Where the model itself
    is often wrong, flagged labels are mostly its own mistakes, so the severity is info only.
    """
    worst = [suspect for suspect in errors.suspects if suspect.flagged]
    if not worst:
        return None
    low, high = errors.interval
    is_trusted = low >= _TRUSTED
    look = "look" if is_trusted else "may be"
    message = (
        f"{errors.num_flagged:,} of {errors.num_images:,} labels {look} wrong, such as "
        f"'{worst[0].path}': its label is '{worst[0].label}' and it looks like '{worst[0].suggested}'. This "
        f"is based on {basis or 'the embedding'}, from which {errors.accuracy:.0%} of the other labels are "
        f"predicted correctly ({low:.0%} to {high:.0%})"
        + ("" if is_trusted else ", so read the list from the top and stop where it no longer helps")
        + ". Write the right classes into relabel.csv and run again with scan.relabel."
    )
    notes = tuple(f"looks like {s.suggested}" for s in worst[:MAX_PATHS])
    paths = tuple(s.path for s in worst[:MAX_PATHS])
    return Finding("label_error", WARNING if is_trusted else INFO, errors.num_flagged, paths, message, notes)
