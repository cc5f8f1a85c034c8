"""Has the world moved since a model was released?

What comes in after a release is held against the reference that was made then (drift_reference.py):

    prior        which classes are answered             G-test
    confidence   how sure the model is                  Kolmogorov, Smirnov
    brightness, contrast, sharpness, width, height, bytes   the same, a column each
    embedding    where images lie                     maximum mean discrepancy

All tests share one set of permutations (two_samples.py), so `alpha` is the chance of any false alarm at all,
and it is shared out over repeated looks (`alpha_at`). Where only some of the requests have embeddings, that
test has permutations of its own and Bonferroni's bound puts the two together. Drift is not yet loss: only
true labels show that.
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
from pergola.components.records import setting
from pergola.components.stats.two_samples import Columns, Outcome, compare_samples, random_features

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

PRIOR, CONFIDENCE, EMBEDDING = "prior", "confidence", "embedding"
RENEWING, ENDLESS = "renewing", "endless"


@dataclass(frozen=True)
class DriftSettings:
    """When a change counts as drift."""

    alpha: float = setting(0.05, "chance of any false alarm in a period of `looks` looks", low=1e-4, high=0.5)
    looks: int = setting(20, "looks in a period; each gets an equal share of alpha", low=1, high=365)
    spending: str = setting(
        RENEWING,
        "renewing: alpha is a period's; endless: it is for ever, and later looks get less and less",
        choices=(RENEWING, ENDLESS),
    )
    min_shift: float = setting(
        0.05,
        "smallest share of images that must have moved, for prior, confidence and columns",
        low=0,
        high=1,
    )
    min_requests: int = setting(50, "fewer requests are not judged", low=10)
    max_requests: int = setting(10_000, "only the last so many requests are judged", low=50)
    max_embedded: int = setting(
        1_000, "of more requests, a draw of so many is embedded, which takes the model (0: none)", low=0
    )
    num_permutations: int = setting(999, "permutations at least", low=99, high=100_000)
    seed: int = setting(0, "seed of the permutations", low=0)


@dataclass(frozen=True)
class DriftTest:
    """One way to look for drift."""

    name: str
    effect: float  # see components/evaluation/two_samples.Outcome
    p_value: float
    adjusted_p: float
    drifted: bool
    message: str  # what it was and what it is, one sentence


@dataclass(frozen=True)
class ClassShift:
    """How often a class is answered, and how often it likely occurs. Shares, 0 to 1."""

    label: str
    reference: float
    live: float
    estimated: float | None  # true share by BBSE; None where the confusion does not allow it


@dataclass(frozen=True)
class DriftReport(Record):
    """What moved, and by how much."""

    FILE: ClassVar[str] = "drift.json"

    drifted: bool
    judged: bool  # False: too few requests
    reasons: tuple[str, ...]  # messages of the tests that found drift, or why nothing was judged
    num_reference: int
    num_live: int
    look: int
    alpha: float  # chance of a false alarm that this look may spend
    tests: tuple[DriftTest, ...]
    classes: tuple[ClassShift, ...]
    unlike: tuple[int, ...]  # requests that are most unlike the reference, as rows of what was given


def alpha_at(look: int, settings: DriftSettings) -> float:
    """What the k-th look (from 1) may spend of alpha.

    By Bonferroni's bound, which holds however looks depend on one another, as they do here: all are held
    against one reference. renewing: alpha / looks, so a period of `looks` looks has at most one false alarm
    in 1 / alpha periods. endless: alpha * 6 / (pi k)^2, whose sum over all k is alpha.
    """
    if look < 1:
        raise ValueError(f"Looks are counted from 1. Got {look}.")
    if settings.spending == RENEWING:
        return settings.alpha / settings.looks
    return settings.alpha * 6 / (np.pi * look) ** 2


def drift(folder: Path, live: Sample, settings: DriftSettings | None = None, *, look: int = 1) -> DriftReport:
    """Hold what came in against the reference in `folder`.

    live: only requests since the last look, so that looks are about different images.
    look: which look at this model it is, from 1.
    Raises InputError when answers or embeddings are not those of the reference's model.
    """
    settings = settings or DriftSettings()
    reference, sample = DriftReference.load(folder), DriftReference.sample(folder)
    start = max(0, len(live) - settings.max_requests)
    live = live.rows(slice(start, None))
    alpha = alpha_at(look, settings)
    if len(live) < settings.min_requests:
        reason = f"{len(live)} requests are too few to judge: {settings.min_requests} are wanted."
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
    """Share of each class among the answers before and now, and the true share now if only that moved.

    Source: Lipton, Wang, Smola 2018 (black box shift estimation). With C[i, j] the share of images that are
    of class j and answered i, and m the answers now, w solves C w = m, and class j now has w_j times its
    share. Not estimated when a class has no image in the reference or C is nearly singular.
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
            f"The log has answers with class number {live.predicted.max()}, the reference has "
            f"{len(reference.labels)} classes. Give the log of the version that the reference is of."
        )
    width = 0 if live.embeddings is None else live.embeddings.shape[1]
    if reference.width and width and width != reference.width:
        raise InputError(
            f"The log's embeddings have {width} numbers, the reference's {reference.width}. "
            "Embed both with the same model version."
        )


def _outcomes(families: list[Columns], alpha: float, settings: DriftSettings) -> list[Outcome]:
    """Of all families together: each gets its share of alpha, by Bonferroni's bound."""
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
    """What is permuted together: all columns, or two families when only some requests have embeddings."""
    both = {
        name: np.concatenate([sample.statistics[name], live.statistics[name]])
        for name in sample.statistics
        if name in live.statistics
    }
    # Unknown values lie above all known ones, alike in both samples.
    numbers = {CONFIDENCE: np.concatenate([sample.confidence, live.confidence]).astype(np.float32)}
    numbers |= {name: np.where(np.isnan(values), np.inf, values) for name, values in both.items()}
    answers = {PRIOR: np.concatenate([sample.predicted, live.predicted])}
    if sample.embeddings is None or live.embeddings is None:
        return [Columns(len(sample), answers, numbers, {})]
    # The reference was stored with 16 bits; a difference of rounding must not be found.
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
        what = f"'{most.label}' is answered to {_percent(most.live)}, was {_percent(most.reference)}"
    elif outcome.name == EMBEDDING:
        where = "elsewhere" if drifted else "about where they did"
        what = f"images lie {where} in embedding space (squared MMD {outcome.effect:.4f})"
    else:
        before, after = (_values(one, outcome.name) for one in (sample, live))
        what = f"the median of {outcome.name} is {np.median(after):.4g}, was {np.median(before):.4g}"
        what += f", and the distributions differ by {_percent(outcome.effect)}"
    message = f"{outcome.name}: {what} (p = {outcome.adjusted_p:.2g} after correction, limit {alpha:.2g})."
    return DriftTest(outcome.name, outcome.effect, outcome.p_value, outcome.adjusted_p, drifted, message)


def _values(sample: Sample, name: str) -> Floats:
    values = sample.confidence if name == CONFIDENCE else sample.statistics[name]
    known = values[~np.isnan(values)]
    return known if len(known) else np.array([np.nan])


def _unlike(sample: Sample, live: Sample, seed: int, count: int = 12) -> Ints:
    """Live rows where their own density most exceeds the reference's (the witness function of MMD)."""
    if sample.embeddings is None or live.embeddings is None:
        return np.array([], np.int64)
    features = random_features(np.concatenate([sample.embeddings, live.embeddings]), seed)
    before, after = features[: len(sample)], features[len(sample) :]
    witness = after @ (after.mean(axis=0) - before.mean(axis=0))
    most = np.argsort(-witness, kind="stable")[:count]
    return most if live.embedded is None else live.embedded[most]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
