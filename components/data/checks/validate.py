"""Is the data fit to train on? One list of checks, each with its findings.

A check is a function of the facts and the settings; it gives its findings and, where it has details, a
record. To add one, write it in a file of its own and give it a row in CHECKS. Findings keep the order of the
rows within a severity. Checks that read images give no critical findings and exclude nothing: they raise
questions for a person, and each finding says what it is based on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING, Finding, ValidationReport
from pergola.components.artifacts.record import Record
from pergola.components.data.checks import (
    class_expectations,
    crops,
    file_expectations,
    grey_images,
    label_errors,
    outliers,
    quarantine,
    sampling,
    series,
    shortcuts,
    structure,
)
from pergola.components.data.checks.facts import CheckResult, Facts, ImageAccess
from pergola.components.data.checks.settings import ValidateSettings as ValidateSettings


class Needs(Enum):
    """What a check looks at."""

    MANIFEST = "the manifest alone"
    IMAGES = "features of the images"
    EMBEDDING = "vectors of a pretrained network"

    def are_met(self, facts: Facts) -> bool:
        """Whether the facts offer this."""
        if self is Needs.MANIFEST:
            return True
        return facts.features is not None and (self is Needs.IMAGES or facts.embedding.is_pretrained)


@dataclass(frozen=True)
class Check:
    """A row of CHECKS. It runs when one of the settings is on; without settings, always.

    meaning: what holds when it finds nothing; empty: its rules have meanings of their own.
    """

    name: str
    run: Callable[[Facts, ValidateSettings], CheckResult]
    meaning: str = ""
    settings: tuple[str, ...] = ()
    needs: Needs = Needs.MANIFEST


CHECKS = (
    Check("source", structure.check_source, "The structure of the data set is understood."),
    Check("files", file_expectations.check),
    Check("classes", class_expectations.check),
    Check("label_texts", structure.check_label_texts, "Every label names a class."),
    Check("given_split", structure.check_given_split, "A given split has enough images of every class."),
    Check("quarantine", quarantine.check, "Few enough files are excluded."),
    Check("series", series.check, "Images of one object are in one split.", ("group_by",)),
    Check("label_errors", label_errors.check, "No label is wrong.", ("label_errors",), Needs.IMAGES),
    Check("outliers", outliers.check, "No image is unlike all others.", ("outliers",), Needs.EMBEDDING),
    Check(
        "grey_images", grey_images.check, "No grey image is among colour images.",
        ("outliers",), Needs.IMAGES,
    ),
    Check("crops", crops.check, "No image is a part of another one.", ("crops",), Needs.IMAGES),
    Check(
        "shortcuts", shortcuts.check, "Metadata and borders give no class away.",
        ("shortcuts",), Needs.IMAGES,
    ),
    Check(
        "sampling", sampling.check, "Every image was looked at.",
        ("label_errors", "outliers", "crops", "shortcuts"), Needs.IMAGES,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Validation:
    """The report of all checks that ran, their records, and what they were about.

    found: the findings of each check that ran and is no list of rules.
    """

    report: ValidationReport
    records: tuple[Record, ...]
    facts: Facts
    found: Mapping[str, tuple[Finding, ...]]

    def save(self, folder: Path) -> None:
        """Write the records and the report."""
        for record in (*self.records, self.report):
            record.save(folder)


def validate(manifest_folder: Path, settings: ValidateSettings) -> ValidationReport:
    """The report of the checks that need the manifest alone."""
    return run_checks(manifest_folder, settings).report


def run_checks(
    manifest_folder: Path, settings: ValidateSettings, images: ImageAccess | None = None
) -> Validation:
    """Run the checks that the settings switch on and whose needs are met. images: None to read none.

    Raises InputError for expectations that cannot be run, a column that does not exist, and weights or
    corrections that cannot be read.
    """
    facts = Facts(manifest_folder, settings, images)
    results = {check: check.run(facts, settings) for check in CHECKS if _runs(check, facts, settings)}
    findings = chain.from_iterable(result.findings for result in results.values())
    severities = (CRITICAL, WARNING, INFO)
    ordered = tuple(sorted(findings, key=lambda finding: severities.index(finding.severity)))
    report = ValidationReport(
        ok=all(finding.severity != CRITICAL for finding in ordered),
        findings=ordered,
        quarantined=facts.quarantined,
        num_images=facts.manifest.num_rows,
        counts={
            str(label): int(count)
            for label, count in zip(facts.classes["label"], facts.classes["images"], strict=True)
        },
        groups=facts.groups,
    )
    return Validation(
        report,
        tuple(result.record for result in results.values() if result.record),
        facts,
        {check.name: result.findings for check, result in results.items() if check.meaning},
    )


def _runs(check: Check, facts: Facts, settings: ValidateSettings) -> bool:
    switched_on = not check.settings or any(getattr(settings, name) for name in check.settings)
    return switched_on and check.needs.are_met(facts)
