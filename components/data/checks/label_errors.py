"""Images whose label is likely wrong.

A small model on embeddings (components/stats/out_of_fold.py) says of each image, without having seen it,
how likely each class is; confident learning (components/stats/confident_learning.py) turns that into a
ranked list. It finds labels that disagree with images that look alike; it cannot find a class that is
wrong throughout, nor tell a wrong label from an image that is odd.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.artifacts.record import Record
from pergola.components.data.manifest.relabel import Suspect
from pergola.components.imaging.embeddings import principal
from pergola.components.records import setting
from pergola.components.stats import confident_learning, out_of_fold
from pergola.components.stats.cross_validation import enough_groups, group_numbers
from pergola.components.stats.metrics import wilson_interval

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

CHECK = "label_error"
_TRUSTED = 0.96  # of the labels that are not flagged the model must tell right for its flags to be a warning


@dataclass(frozen=True)
class LabelErrorSettings:
    """How wrong labels are looked for."""

    enabled: bool = setting(True, "look for wrong labels")
    folds: int = setting(5, "parts that are predicted in turn; a class needs as many groups", low=2, high=50)
    num_components: int = setting(128, "directions of the embedding that are used", low=2, high=4096)
    max_listed: int = setting(1000, "images in the ranked list, likeliest errors first", low=1)
    seed: int = setting(0, "seed of the folds", low=0)


@dataclass(frozen=True)
class LabelErrors(Record):
    """A ranked list of suspicious labels, worst first."""

    FILE: ClassVar[str] = "label_errors.json"

    num_images: int  # judged
    num_flagged: int
    accuracy: float  # of the model that judges, on images that it has not seen and does not flag
    interval: tuple[float, float]  # 95%, Wilson
    suspects: tuple[Suspect, ...]
    not_judged: tuple[str, ...]  # classes with fewer groups than folds

    def without(self, known: Collection[str]) -> LabelErrors:
        """Less the images whose labels a person has looked at already. known: their ids."""
        left = tuple(suspect for suspect in self.suspects if suspect.id not in known)
        gone = sum(s.flagged for s in self.suspects) - sum(s.flagged for s in left)
        return replace(self, suspects=left, num_flagged=self.num_flagged - gone)


def find_label_errors(
    embeddings: Floats,
    ids: Sequence[str],
    paths: Sequence[str],
    labels: Sequence[str],
    groups: Mapping[str, str] | None = None,
    settings: LabelErrorSettings | None = None,
) -> LabelErrors:
    """The ranked list. Rows of all arguments belong together.

    embeddings: float (N, D), from a model that was not trained on these labels; one that was has learned the
        wrong ones too and finds far fewer.
    groups: id -> group, for near-duplicates (ValidationReport.groups); a group is never predicted by a
        model that has seen a part of it.
    """
    settings = settings or LabelErrorSettings()
    if not len(embeddings) == len(ids) == len(paths) == len(labels):
        raise ValueError(
            f"Wanted a row, id, path and label an image. "
            f"Got {len(embeddings)}, {len(ids)}, {len(paths)} and {len(labels)}."
        )
    names, given = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
    group = group_numbers(ids, groups)
    judged = enough_groups(given, group, len(names), settings.folds)
    not_judged = tuple(str(name) for name in names[~judged])
    rows = np.flatnonzero(judged[given])
    if judged.sum() < 2:
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
    flagged = confident_learning.wrong(truth, probabilities)
    order = np.argsort(quality, kind="stable")
    likeliest = names[known[probabilities.argmax(axis=1)]]
    right = int((probabilities.argmax(axis=1) == truth)[~flagged].sum())
    num_kept = int((~flagged).sum())
    listed = order[: settings.max_listed]
    suspects = tuple(
        Suspect(
            id=ids[rows[i]],
            path=paths[rows[i]],
            label=labels[rows[i]],
            suggested=str(likeliest[i]),
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
    """What a person is told; None when no label is suspicious.

    basis: by what images are compared, such as "plain features of shape and colour". Where the model that
    judges is itself often wrong, its flags are mostly its own mistakes: then it only tells.
    """
    worst = [suspect for suspect in errors.suspects if suspect.flagged]
    if not worst:
        return None
    low, high = errors.interval
    sure = low >= _TRUSTED
    look = "look" if sure else "may be"
    message = (
        f"{errors.num_flagged:,} of {errors.num_images:,} labels {look} wrong, such as "
        f"'{worst[0].path}': it is called '{worst[0].label}' and looks like '{worst[0].suggested}'. This "
        f"rests on {basis or 'the embedding'}, by which {errors.accuracy:.0%} of the other labels are told "
        f"right ({low:.0%} to {high:.0%})"
        + ("" if sure else ", so read the list from its top and stop where it is no use")
        + ". Write the right classes into relabel.csv and run again with scan.relabel."
    )
    notes = tuple(f"looks like {s.suggested}" for s in worst[:100])
    paths = tuple(s.path for s in worst[:100])
    return Finding(CHECK, WARNING if sure else INFO, errors.num_flagged, paths, message, notes)
