"""What each step did, in a few words, read from what it left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import PARTS, Manifest, Shards, Split, ValidationReport
from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Champion, Confirmation, Publication, Registration
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.evaluation.drift.reference import DriftReference
from pergola.components.evaluation.export_notes import ExportNotes
from pergola.components.evaluation.gate import formatting


def data_counts(report: ValidationReport) -> dict[str, Any]:
    """Images seen, and how many each check keeps out."""
    return {
        "images": report.num_images,
        "quarantined": dict(sorted(Counter(report.quarantined.values()).items())),
    }


def scan(folder: Path) -> str:
    manifest = Manifest.load(folder)
    unreadable = f", {manifest.num_unreadable:,} unreadable" if manifest.num_unreadable else ""
    taken_out = f", {manifest.num_taken_out:,} taken out" if manifest.num_taken_out else ""
    return f"{manifest.num_rows:,} files in {len(manifest.labels)} classes{unreadable}{taken_out}"


def validate(folder: Path) -> str:
    report = ValidationReport.load(folder)
    severities = Counter(finding.severity for finding in report.findings)
    found = ", ".join(f"{severities[s]} {s}" for s in ("critical", "warning", "info") if severities[s])
    kept_out = f"; {len(report.quarantined):,} files kept out" if report.quarantined else ""
    return f"findings: {found or 'none'}{kept_out}"


def split(folder: Path) -> str:
    counts = Split.load(folder).counts
    return ", ".join(f"{counts.get(part, 0):,} {part}" for part in PARTS)


def shards(folder: Path) -> str:
    shards = Shards.load(folder)
    files = sum(len(part.files) for part in shards.parts.values())
    colour = "grey" if shards.channels == 1 else "colour"
    return f"{files} shards, {colour}, median {shards.median_width} x {shards.median_height} pixels"


def augment(folder: Path) -> str:
    augmentation = Augmentation.load(folder)
    used = [name for name, value in augmentation.policy.items() if value]
    extra = f"; {augmentation.extra.num_images:,} images added" if augmentation.extra else ""
    return (", ".join(used) or "none") + extra


def train(folder: Path) -> str:
    training = Training.load(folder)
    return (
        f"{training.architecture} at {training.width} x {training.height}, "
        f"{training.num_parameters:,} parameters, best epoch {training.best_epoch} of {training.epochs}, "
        f"{training.precision}"
    )


def export(folder: Path) -> str:
    inside = ExportNotes.of(folder / "saved_model")
    costs = ", decides by costs" if inside.costs else ""
    megabytes = Export.load(folder).num_bytes / 1e6
    return f"SavedModel, {megabytes:.1f} MB, temperature {inside.temperature:.2f}{costs}"


def evaluate(folder: Path) -> str:
    evaluation = Evaluation.load(folder)
    calibration = evaluation.calibration_error or 0.0
    return (
        f"accuracy {evaluation.accuracy:.1%} on {evaluation.num_images:,} test images, "
        f"calibration error {calibration:.1%}"
    )


def champion(folder: Path) -> str:
    """The version to beat."""
    version = Champion.load(folder).version
    return f"version {version} is the champion to beat" if version else "none to compare with"


def evaluate_champion(folder: Path) -> str:
    """The champion's scores."""
    return evaluate(folder) if (folder / Evaluation.FILE).is_file() else "nothing to compare with"


def smoke_test(folder: Path) -> str:
    found = SmokeTest.load(folder)
    if not found.ok:
        return f"failed: {found.reason}"
    latency = f", 95% within {found.latency_ms:.3g} ms" if found.latency_ms is not None else ""
    return f"{found.num_requests} golden answers, largest difference {found.max_difference:.1g}{latency}"


def gate(folder: Path) -> str:
    decision = Decision.load(folder)
    passed = sum(rule.passed for rule in decision.rules)
    verdict = "accepted" if decision.accepted else "rejected"
    return "\n".join(
        [f"{verdict}: {passed} of {len(decision.rules)} rules passed", *map(_rule, decision.rules)]
    )


def _rule(rule: Rule) -> str:
    """A rule in a line: name, value, interval, limit, verdict."""
    value, interval, limit = (formatting.of_rule(rule, which) for which in ("value", "interval", "limit"))
    return f"  {rule.name:<14}{value:>9}  ({interval})  limit {limit}: {formatting.verdict(rule)}"


def report(folder: Path) -> str:
    return f"{(folder / 'report.html').stat().st_size / 1e3:.0f} kB"


def reference(folder: Path) -> str:
    return f"{DriftReference.load(folder).num_images:,} test images, to hold requests against"


def register(folder: Path) -> str:
    if not (folder / Registration.FILE).exists():
        return "recorded, without a version"
    registration = Registration.load(folder)
    return f"{registration.model} version {registration.version}"


def publish(folder: Path) -> str:
    publication = Publication.load(folder)
    return f"models/{publication.model}/{publication.version}/"


def confirm(folder: Path) -> str:
    return f"version {Confirmation.load(folder).version} answers and is the champion"
