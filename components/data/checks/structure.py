"""Checks: how the data set was read, the texts of its labels, and the split that comes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pergola.components.artifacts.data import CRITICAL, SPLITS, TRAIN, WARNING, Finding, SourceFindings
from pergola.components.data.checks.facts import CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.manifest.parquet import batches
from pergola.components.data.sources.labels import stands_for_missing

_FEW = 20  # images of a split, below which its results say little
_BLOCK = 25_000
_SHOWN = 3


def check_source(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """What the source said: what is in doubt, and what was left out."""
    return CheckResult(SourceFindings.of(facts.folder).findings)


def check_label_texts(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding for classes whose names stand for a missing value."""
    names = [label for label in facts.manifest.labels if stands_for_missing(label)]
    if not names:
        return CheckResult()
    message = (
        f"The class {_shown(names)} is named like a missing value: if these images have no label, add it or "
        "remove them."
    )
    return CheckResult((Finding("label_text", WARNING, len(names), (), message),))


def check_given_split(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """Findings for classes that a given split lacks, and for splits of few images."""
    counts = _counts(facts)
    given = [split for split in SPLITS if any(counts[label][split] for label in counts)]
    if not given:
        return CheckResult()
    return CheckResult(tuple(_of_given_split(counts, given)))


def _of_given_split(counts: dict[str, Counter[str | None]], given: Sequence[str]) -> Iterator[Finding]:
    trained = [label for label in counts if counts[label][TRAIN] or counts[label][None]]
    untrained = [label for label in counts if label not in trained]
    if untrained:
        message = (
            f"{len(untrained):,} of {len(counts):,} classes, such as {_shown(untrained)}, have images for "
            "validation and test only, and none for training. Are these folders classes? Add images for "
            "training, or remove them."
        )
        yield Finding("untrained_class", CRITICAL, len(untrained), (), message)
    for split in (split for split in given if split != TRAIN):
        lacking = [label for label in trained if not counts[label][split]]
        if lacking:
            message = (
                f"The {split} split that the data bring has no image of {len(lacking):,} of {len(counts):,} "
                f"classes, such as {_shown(lacking)}: these are not tested. Add images of them."
            )
            yield Finding("untested_class", WARNING, len(lacking), (), message)
        total = sum(counts[label][split] for label in counts)
        if total < _FEW:
            message = f"The {split} split that the data bring has {total:,} images: its results say little."
            yield Finding("tiny_split", WARNING, total, (), message)


def _counts(facts: Facts) -> dict[str, Counter[str | None]]:
    """For each class the number of its files in use in each given split, or in none (None)."""
    counts: dict[str, Counter[str | None]] = {label: Counter() for label in facts.manifest.labels}
    for start, batch in batches(facts.folder / "manifest.parquet", ["label", "given_split"], _BLOCK):
        used = facts.used[start : start + len(batch)].tolist()
        rows = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), used, strict=True)
        for (label, split), count in Counter((label, split) for label, split, use in rows if use).items():
            if label in counts:
                counts[label][split] += count
    return {label: found for label, found in counts.items() if found}


def _shown(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:_SHOWN])
