"""Drift detection: do requests differ from the test split of the released model?

Requests are compared with the reference of the release (reference.py):

    prior        predicted classes                      G-test
    confidence   confidence of the predictions          Kolmogorov-Smirnov
    brightness, contrast, sharpness, width, height, bytes   the same, one test per column
    embedding    embeddings of the images               maximum mean discrepancy

All tests share one set of permutations (stats/two_samples.py), so `alpha` is the probability of any false
alarm; it is divided among repeated checks (`alpha_at`). If only some requests have embeddings, that test has
separate permutations and the two are combined by Bonferroni's bound. Drift does not mean that accuracy fell:
only true labels show that.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.reference import DriftReference, Sample
from pergola.components.formatting import percent
from pergola.components.records import setting
from pergola.components.stats.two_samples import Columns, Outcome, compare_samples, random_features

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

PRIOR, CONFIDENCE, EMBEDDING = "prior", "confidence", "embedding"
RENEWING, ENDLESS = "renewing", "endless"


@dataclass(frozen=True)
class DriftSettings:
    """When a change counts as drift."""

    alpha: float = setting(
        0.05, "probability of any false alarm in a period of `checks_per_period` checks", low=1e-4, high=0.5
    )
    checks_per_period: int = setting(
        20, "checks in a period; each uses an equal share of alpha", low=1, high=365, was="looks"
    )
    spending: str = setting(
        RENEWING,
        "renewing: alpha holds for each period; endless: for all checks together, later ones use less",
        choices=(RENEWING, ENDLESS),
    )
    min_shift: float = setting(
        0.05,
        "smallest effect that counts, as a share of images, for prior, confidence and columns",
        low=0,
        high=1,
    )
    min_requests: int = setting(50, "requests needed for a check", low=10)
    max_requests: int = setting(10_000, "most requests in a check: the latest ones", low=50)
    max_embedded: int = setting(
        1_000, "most requests that are embedded by the model, a random sample (0: none)", low=0
    )
    num_permutations: int = setting(999, "minimum number of permutations", low=99, high=100_000)
    seed: int = setting(0, "seed of the permutations", low=0)


@dataclass(frozen=True)
class DriftTest:
    """The result of one test."""

    name: str
    effect: float  # see components/stats/two_samples.Outcome
    p_value: float
    adjusted_p: float
    drifted: bool
    message: str  # before and now, one sentence


@dataclass(frozen=True)
class ClassShift:
    """How often a class is predicted, and its estimated true share. Shares, 0 to 1."""

    label: str
    reference: float
    live: float
    estimated: float | None  # true share by BBSE; None if the confusion matrix does not allow it


@dataclass(frozen=True)
class DriftReport(Record):
    """The result of a drift check."""

    FILE: ClassVar[str] = "drift.json"

    drifted: bool
    judged: bool  # False: too few requests
    reasons: tuple[str, ...]  # messages of the tests that found drift, or why nothing was tested
    num_reference: int
    num_live: int
    look: int
    alpha: float  # probability of a false alarm in this check
    tests: tuple[DriftTest, ...]
    classes: tuple[ClassShift, ...]
    unlike: tuple[int, ...]  # rows of the requests that differ most from the reference


def alpha_at(look: int, settings: DriftSettings) -> float:
    """The share of alpha that the k-th check (from 1) uses.

    By Bonferroni's bound, since checks are dependent: all use the same reference. renewing: alpha /
    checks_per_period, so at most a share alpha of the periods has a false alarm. endless: alpha * 6 /
    (pi k)^2, whose sum over all k is alpha.
    """
    if look < 1:
        raise ValueError(f"Checks are counted from 1. Got {look}.")
    if settings.spending == RENEWING:
        return settings.alpha / settings.checks_per_period
    return settings.alpha * 6 / (np.pi * look) ** 2


def drift(folder: Path, live: Sample, settings: DriftSettings | None = None, *, look: int = 1) -> DriftReport:
    """Compare requests with the reference in `folder`.

    live: requests since the last check only, so that checks are about different images.
    look: the number of this check, from 1.
    Raises InputError if predictions or embeddings come from another model than the reference.
    """
    settings = settings or DriftSettings()
    reference, sample = DriftReference.load(folder), DriftReference.sample(folder)
    start = max(0, len(live) - settings.max_requests)
    live = live.rows(slice(start, None))
    alpha = alpha_at(look, settings)
    if len(live) < settings.min_requests:
        reason = f"{len(live)} requests are too few: at least {settings.min_requests} are needed."
        return DriftReport(False, False, (reason,), len(sample), len(live), look, alpha, (), (), ())
    _check(reference, live)
    outcomes = _outcomes(_families(sample, live), alpha, settings)
    classes = class_shifts(reference, sample.predicted, live.predicted)
    tests = tuple(_test(one, sample, live, classes, alpha, settings) for one in outcomes)
    reasons = tuple(test.message for test in tests if test.drifted)
    unlike = tuple(int(i) + start for i in _unlike(sample, live, settings.seed))
    return DriftReport(
        bool(reasons), True, reasons, len(sample), len(live), look, alpha, tests, classes, unlike
    )


def class_shifts(reference: DriftReference, before: Ints, after: Ints) -> tuple[ClassShift, ...]:
    """Share of each class in the predictions before and now, and the estimated true share now.

    Source: Lipton, Wang, Smola 2018 (black box shift estimation). With C[i, j] the share of images that are
    of class j and predicted as i, and m the predictions now, w solves C w = m, and class j now has w_j times
    its share, if only the shares changed. Not estimated if a class has no image in the reference or C is
    nearly singular.
    """
    size = len(reference.labels)
    old, new = (np.bincount(answers, minlength=size) / len(answers) for answers in (before, after))
    true = _estimated(np.array(reference.confusion, np.float64), new)
    return tuple(
        ClassShift(label, float(old[i]), float(new[i]), None if true is None else float(true[i]))
        for i, label in enumerate(reference.labels)
    )


def _estimated(confusion: Floats, answers: Floats) -> Floats | None:
    joint = confusion.T / max(confusion.sum(), 1)
    if (joint.sum(axis=0) == 0).any() or np.linalg.cond(joint) > 1e3:
        return None
    shares = np.clip(np.linalg.solve(joint, answers), 0, None) * joint.sum(axis=0)
    return shares / shares.sum()


def _check(reference: DriftReference, live: Sample) -> None:
    if live.predicted.max() >= len(reference.labels) or live.predicted.min() < 0:
        raise InputError(
            f"The log has predictions of class number {live.predicted.max()}, the reference has "
            f"{len(reference.labels)} classes. Use the log of the same version as the reference."
        )
    width = 0 if live.embeddings is None else live.embeddings.shape[1]
    if reference.width and width and width != reference.width:
        raise InputError(
            f"The log's embeddings have {width} numbers, the reference's {reference.width}. "
            "Embed both with the same model version."
        )


def _outcomes(families: list[Columns], alpha: float, settings: DriftSettings) -> list[Outcome]:
    """The outcomes of all families; each uses an equal share of alpha, by Bonferroni's bound."""
    share = len(families)
    found = [
        compare_samples(
            family, alpha=alpha / share, min_permutations=settings.num_permutations, seed=settings.seed
        )
        for family in families
    ]
    return [
        dataclasses.replace(one, adjusted_p=min(1.0, share * one.adjusted_p))
        for family in found
        for one in family
    ]


def _families(sample: Sample, live: Sample) -> list[Columns]:
    """Columns that are permuted together: all, or two families if only some requests have embeddings."""
    both = {
        name: np.concatenate([sample.statistics[name], live.statistics[name]])
        for name in sample.statistics
        if name in live.statistics
    }
    # Unknown values are ranked above all known ones in both samples.
    numbers = {CONFIDENCE: np.concatenate([sample.confidence, live.confidence]).astype(np.float32)}
    numbers |= {name: np.where(np.isnan(values), np.inf, values) for name, values in both.items()}
    answers = {PRIOR: np.concatenate([sample.predicted, live.predicted])}
    if sample.embeddings is None or live.embeddings is None:
        return [Columns(len(sample), answers, numbers, {})]
    # The reference is stored with 16 bits; rounding must not count as drift.
    rounded = live.embeddings.astype(np.float16).astype(np.float32)
    vectors = {EMBEDDING: np.concatenate([sample.embeddings, rounded])}
    if live.all_embedded:
        return [Columns(len(sample), answers, numbers, vectors)]
    return [Columns(len(sample), answers, numbers, {}), Columns(len(sample), {}, {}, vectors)]


def _test(
    outcome: Outcome,
    sample: Sample,
    live: Sample,
    classes: tuple[ClassShift, ...],
    alpha: float,
    settings: DriftSettings,
) -> DriftTest:
    moved = outcome.name == EMBEDDING or outcome.effect >= settings.min_shift
    drifted = moved and outcome.adjusted_p <= alpha
    if outcome.name == PRIOR:
        most = max(classes, key=lambda c: abs(c.live - c.reference))
        what = f"{percent(most.live)} of predictions are '{most.label}', was {percent(most.reference)}"
    elif outcome.name == EMBEDDING:
        change = "changed" if drifted else "shows no significant change"
        what = f"the distribution of embeddings {change} (squared MMD {outcome.effect:.4f})"
    else:
        before, after = (_values(one, outcome.name) for one in (sample, live))
        what = f"the median of {outcome.name} is {np.median(after):.4g}, was {np.median(before):.4g}"
        what += f", and the distributions differ by {percent(outcome.effect)}"
    message = f"{outcome.name}: {what} (p = {outcome.adjusted_p:.2g} after correction, limit {alpha:.2g})."
    return DriftTest(outcome.name, outcome.effect, outcome.p_value, outcome.adjusted_p, drifted, message)


def _values(sample: Sample, name: str) -> Floats:
    values = sample.confidence if name == CONFIDENCE else sample.statistics[name]
    known = values[~np.isnan(values)]
    return known if len(known) else np.array([np.nan])


def _unlike(sample: Sample, live: Sample, seed: int, count: int = 12) -> Ints:
    """Rows of the requests whose density most exceeds the reference's (the witness function of MMD)."""
    if sample.embeddings is None or live.embeddings is None:
        return np.array([], np.int64)
    features = random_features(np.concatenate([sample.embeddings, live.embeddings]), seed)
    before, after = features[: len(sample)], features[len(sample) :]
    witness = after @ (after.mean(axis=0) - before.mean(axis=0))
    most = np.argsort(-witness, kind="stable")[:count]
    return most if live.embedded is None else live.embedded[most]
