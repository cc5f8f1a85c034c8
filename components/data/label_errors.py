"""Pictures whose label is likely wrong.

A small model on embeddings says of each picture, without having seen it, how likely each class is; confident
learning turns that into a ranked list. Source: Northcutt, Jiang, Chuang 2021, "Confident Learning", by
their package cleanlab. It finds labels that disagree with pictures that look alike; it cannot find a class
that is wrong throughout, nor tell a wrong label from a picture that is odd.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from components.artifacts import WARNING, Finding, Record
from components.data.embeddings import principal
from components.data.folds import enough_groups, group_folds, group_numbers
from components.records import setting

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

CHECK = "label_error"


@dataclass(frozen=True)
class LabelErrorSettings:
    """How wrong labels are looked for."""

    enabled: bool = setting(True, "look for wrong labels")
    folds: int = setting(5, "parts that are predicted in turn; a class needs as many groups", low=2, high=50)
    num_components: int = setting(128, "directions of the embedding that are used", low=2, high=4096)
    regularisation: float = setting(
        1.0, "C of the logistic regression: lower is smoother", low=1e-4, high=1e4
    )
    max_listed: int = setting(1000, "pictures in the ranked list, likeliest errors first", low=1)
    seed: int = setting(0, "seed of the folds", low=0)


@dataclass(frozen=True)
class Suspect:
    """A picture whose label may be wrong."""

    id: str
    path: str
    label: str
    suggested: str  # the class that the model finds likeliest; may be the label itself
    quality: float  # out-of-fold probability of the given label, 0 to 1; low is suspicious
    flagged: bool  # confident learning calls it an error


@dataclass(frozen=True)
class LabelErrors(Record):
    """A ranked list of suspicious labels, worst first."""

    FILE: ClassVar[str] = "label_errors.json"

    num_images: int  # judged
    num_flagged: int
    suspects: tuple[Suspect, ...]
    not_judged: tuple[str, ...]  # classes with fewer groups than folds


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
            f"Wanted a row, id, path and label a picture. "
            f"Got {len(embeddings)}, {len(ids)}, {len(paths)} and {len(labels)}."
        )
    names, given = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
    group = group_numbers(ids, groups)
    judged = enough_groups(given, group, len(names), settings.folds)
    not_judged = tuple(str(name) for name in names[~judged])
    rows = np.flatnonzero(judged[given])
    if judged.sum() < 2:
        return LabelErrors(0, 0, (), not_judged)
    known, truth = np.unique(given[rows], return_inverse=True)
    probabilities = out_of_fold(embeddings[rows], truth, group[rows], settings)
    order, quality, flagged = rank(truth, probabilities)
    likeliest = names[known[probabilities.argmax(axis=1)]]
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
    return LabelErrors(len(rows), int(flagged.sum()), suspects, not_judged)


def out_of_fold(embeddings: Floats, labels: Ints, groups: Ints, settings: LabelErrorSettings) -> Floats:
    """Probabilities of each class by models that have not seen the picture's group, float64 (N, C).

    labels: int (N,), every value from 0 to C - 1 occurs.  groups: int (N,).
    """
    from sklearn.linear_model import LogisticRegression

    num_classes = int(labels.max()) + 1
    features = principal(embeddings, settings.num_components).astype(np.float64)
    found = np.zeros((len(labels), num_classes))
    for seen, unseen in group_folds(labels, groups, settings.folds, settings.seed):
        classes = np.unique(labels[seen])
        if len(classes) == 1:
            found[unseen, classes[0]] = 1.0
            continue
        model = LogisticRegression(C=settings.regularisation, max_iter=300)
        with warnings.catch_warnings():
            # A fit that is not quite converged ranks as well.
            warnings.simplefilter("ignore")
            model.fit(features[seen], labels[seen])
        found[np.ix_(unseen, model.classes_)] = model.predict_proba(features[unseen])
    return found


def rank(labels: Ints, probabilities: Floats) -> tuple[Ints, Floats, Bools]:
    """Order from worst to best label, int (N,); quality, float (N,); which are called errors, bool (N,).

    Quality is the self-confidence: the probability of the given label. The flags prune by noise rate: of
    each pair of classes as many as the confident joint estimates.  probabilities: out-of-fold, (N, C).
    """
    from cleanlab.filter import find_label_issues  # type: ignore[import-untyped, unused-ignore]
    from cleanlab.rank import get_label_quality_scores  # type: ignore[import-untyped, unused-ignore]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flagged = np.asarray(find_label_issues(labels, probabilities, n_jobs=1), np.bool_)
        quality = np.asarray(get_label_quality_scores(labels, probabilities, method="self_confidence"))
    return np.argsort(quality, kind="stable"), quality, flagged


def finding(errors: LabelErrors) -> Finding | None:
    """What a person is told; None when no label is suspicious."""
    if not errors.num_flagged:
        return None
    worst = [suspect for suspect in errors.suspects if suspect.flagged]
    example = worst[0]
    message = (
        f"{errors.num_flagged} of {errors.num_images} labels look wrong, such as '{example.path}': it is "
        f"called '{example.label}' and looks like '{example.suggested}'. Look at the list, write the right "
        "classes into relabel.csv and run again with it."
    )
    return Finding(CHECK, WARNING, errors.num_flagged, tuple(s.path for s in worst[:100]), message)
