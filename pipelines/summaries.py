"""One-line summaries of what each step did, read from its output."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import SPLITS, Manifest, Shards, Split, ValidationReport
from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Champion, Confirmation, FinalTest, Publication, Registration
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.evaluation.calibration import Calibration
from pergola.components.evaluation.drift.reference import DriftReference
from pergola.components.evaluation.export_notes import ExportNotes
from pergola.components.evaluation.gate import formatting
from pergola.components.formatting import count


def data_counts(report: ValidationReport) -> dict[str, Any]:
    """Number of images, and how many of them each check excluded."""
    return {
        "images": report.num_images,
        "quarantined": dict(sorted(Counter(report.quarantined.values()).items())),
    }


def scan(folder: Path) -> str:
    manifest = Manifest.load(folder)
    unreadable = f", {manifest.num_unreadable:,} unreadable" if manifest.num_unreadable else ""
    removed = f", {manifest.num_taken_out:,} removed by scan.relabel" if manifest.num_taken_out else ""
    return f"{manifest.num_rows:,} files in {len(manifest.labels)} classes{unreadable}{removed}"


def validate(folder: Path) -> str:
    report = ValidationReport.load(folder)
    severities = Counter(finding.severity for finding in report.findings)
    found = ", ".join(f"{severities[s]} {s}" for s in ("critical", "warning", "info") if severities[s])
    excluded = f"; {len(report.quarantined):,} files excluded" if report.quarantined else ""
    count = len(report.findings)
    return (f"{count} finding{'s' * (count != 1)} ({found})" if found else "no findings") + excluded


def split(folder: Path) -> str:
    counts = Split.load(folder).counts
    return ", ".join(f"{counts.get(split, 0):,} {split}" for split in SPLITS)


def shards(folder: Path) -> str:
    shards = Shards.load(folder)
    files = sum(len(split.files) for split in shards.splits.values())
    colour = "grey" if shards.channels == 1 else "colour"
    size = f"{shards.median_width} x {shards.median_height}"
    return f"{files} shards of {colour} images, median size {size} pixels"


def augment(folder: Path) -> str:
    augmentation = Augmentation.load(folder)
    used = [
        name.removesuffix("_degrees").replace("_", " ")
        for name, value in augmentation.policy.items()
        if value
    ]
    extra = f"; {augmentation.extra.num_images:,} images added" if augmentation.extra else ""
    return (f"random {', '.join(used)}" if used else "no augmentation") + extra


def train(folder: Path) -> str:
    training = Training.load(folder)
    return (
        f"{training.architecture}, input {training.width} x {training.height}, "
        f"{training.num_parameters:,} parameters, best epoch {training.best_epoch} of {training.epochs}, "
        f"{training.precision}"
    )


def export(folder: Path) -> str:
    inside = ExportNotes.of(folder / "saved_model")
    costs = ", decisions by costs" if inside.costs else ""
    megabytes = Export.load(folder).num_bytes / 1e6
    calibrated = inside.chosen or "not calibrated"
    return f"SavedModel, {megabytes:.1f} MB, {calibrated}{costs}"


def evaluate(folder: Path) -> str:
    evaluation = Evaluation.load(folder)
    calibrated = Calibration.load(folder)
    text = (
        f"accuracy {evaluation.accuracy:.1%} on {evaluation.num_images:,} test images, "
        f"calibration error {calibrated.error:.1%}"
    )
    before = calibrated.before
    if before and before.log_loss < calibrated.log_loss:
        text += (
            f"; the temperature raised log loss on them from {before.log_loss:.3g} to "
            f"{calibrated.log_loss:.3g}: export.calibrate = false leaves it out"
        )
    return text


def champion(folder: Path) -> str:
    version = Champion.load(folder).version
    return f"version {version}" if version else "no other version to compare with"


def evaluate_champion(folder: Path) -> str:
    return evaluate(folder) if (folder / Evaluation.FILE).is_file() else "nothing to compare with"


def smoke_test(folder: Path) -> str:
    found = SmokeTest.load(folder)
    if not found.ok:
        return f"failed: {found.reason}"
    latency = f", p95 latency {found.latency_ms:.3g} ms" if found.latency_ms is not None else ""
    return f"{found.num_requests} golden requests, largest difference {found.max_difference:.1g}{latency}"


def gate(folder: Path) -> str:
    decision = Decision.load(folder)
    passed = sum(rule.passed for rule in decision.rules)
    return "\n".join(
        [
            f"{decision.outcome}: {passed} of {len(decision.rules)} rules passed{_warnings(decision)}",
            *map(_rule, decision.rules),
        ]
    )


def _warnings(decision: Decision) -> str:
    if not decision.warnings:
        return ""
    names = ", ".join(warning.partition(":")[0] for warning in decision.warnings)
    return f", with {count(len(decision.warnings), 'open warning')} about the data ({names})"


def _rule(rule: Rule) -> str:
    """Name, value, interval, limit and verdict of a rule."""
    value, interval, limit = (formatting.of_rule(rule, which) for which in ("value", "interval", "limit"))
    return f"  {rule.name:<14}{value:>9}  ({interval})  limit {limit}: {formatting.verdict(rule)}"


def report(folder: Path) -> str:
    return f"report.html, {(folder / 'report.html').stat().st_size / 1e3:.0f} kB"


def reference(folder: Path) -> str:
    return f"{DriftReference.load(folder).num_images:,} test images as the reference of drift checks"


def register(folder: Path) -> str:
    if not (folder / Registration.FILE).exists():
        return "run recorded; no version, since the model was rejected"
    registration = Registration.load(folder)
    return f"{registration.model} version {registration.version}"


def publish(folder: Path) -> str:
    publication = Publication.load(folder)
    return f"published in models/{publication.model}/{publication.version}/"


def final_test(folder: Path) -> str:
    test = FinalTest.load(folder)
    return f"a server {'fails' if test.problem else 'gives the golden answers'} with version {test.version}"


def confirm(folder: Path) -> str:
    found = Confirmation.load(folder)
    how = "signed" if found.signed else "unsigned"
    return f"version {found.version} passed its final test and is the champion ({how})"
