"""What each step did, in a few words, read from what it left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import PARTS, Manifest, Shards, Split, ValidationReport
from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Confirmation, Publication, Registration
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.evaluation.drift.reference import DriftReference
from pergola.components.evaluation.export_notes import Inside
from pergola.components.evaluation.gate import formatting
from pergola.pipelines.local.reuse import Output


def of_step(output: Output) -> str:
    """The words of a step's line."""
    return _WORDS[output.step](output.folder)


def of_speed(figures: Mapping[str, float]) -> str:
    """How fast a training was, and how much of the time it waited for images."""
    return (
        f"{'':<11}{figures['images_per_s']:,.0f} images/s in {figures['seconds']:.0f} s of training steps, "
        f"{figures['input_wait']:.1%} of them waiting for input"
    )


def data_counts(report: ValidationReport) -> dict[str, Any]:
    """Images seen, and how many each check keeps out."""
    return {
        "images": report.num_images,
        "quarantined": dict(sorted(Counter(report.quarantined.values()).items())),
    }


def _scan(folder: Path) -> str:
    manifest = Manifest.load(folder)
    unreadable = f", {manifest.num_unreadable:,} unreadable" if manifest.num_unreadable else ""
    taken_out = f", {manifest.num_taken_out:,} taken out" if manifest.num_taken_out else ""
    return f"{manifest.num_rows:,} files in {len(manifest.labels)} classes{unreadable}{taken_out}"


def _validate(folder: Path) -> str:
    report = ValidationReport.load(folder)
    severities = Counter(finding.severity for finding in report.findings)
    found = ", ".join(f"{severities[s]} {s}" for s in ("critical", "warning", "info") if severities[s])
    kept_out = f"; {len(report.quarantined):,} files kept out" if report.quarantined else ""
    return f"findings: {found or 'none'}{kept_out}"


def _split(folder: Path) -> str:
    counts = Split.load(folder).counts
    return ", ".join(f"{counts.get(part, 0):,} {part}" for part in PARTS)


def _shards(folder: Path) -> str:
    shards = Shards.load(folder)
    files = sum(len(part.files) for part in shards.parts.values())
    colour = "grey" if shards.channels == 1 else "colour"
    return f"{files} shards, {colour}, median {shards.median_width} x {shards.median_height} pixels"


def _augment(folder: Path) -> str:
    augmentation = Augmentation.load(folder)
    used = [name for name, value in augmentation.policy.items() if value]
    extra = f"; {augmentation.extra.num_images:,} images added" if augmentation.extra else ""
    return (", ".join(used) or "none") + extra


def _train(folder: Path) -> str:
    training = Training.load(folder)
    return (
        f"{training.architecture} at {training.width} x {training.height}, "
        f"{training.num_parameters:,} parameters, best epoch {training.best_epoch} of {training.epochs}, "
        f"{training.precision}"
    )


def _export(folder: Path) -> str:
    inside = Inside.of(folder / "saved_model")
    costs = ", decides by costs" if inside.costs else ""
    megabytes = Export.load(folder).num_bytes / 1e6
    return f"SavedModel, {megabytes:.1f} MB, temperature {inside.temperature:.2f}{costs}"


def _evaluate(folder: Path) -> str:
    evaluation = Evaluation.load(folder)
    calibration = evaluation.calibration_error or 0.0
    return (
        f"accuracy {evaluation.accuracy:.1%} on {evaluation.num_images:,} test images, "
        f"calibration error {calibration:.1%}"
    )


def _smoke_test(folder: Path) -> str:
    smoke_test = SmokeTest.load(folder)
    if not smoke_test.ok:
        return f"failed: {smoke_test.reason}"
    soon = f", 95% within {smoke_test.latency_ms:.3g} ms" if smoke_test.latency_ms is not None else ""
    return (
        f"{smoke_test.num_requests} golden answers, largest difference {smoke_test.max_difference:.1g}{soon}"
    )


def _gate(folder: Path) -> str:
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


def _report(folder: Path) -> str:
    return f"{(folder / 'report.html').stat().st_size / 1e3:.0f} kB"


def _reference(folder: Path) -> str:
    return f"{DriftReference.load(folder).num_images:,} test images, to hold requests against"


def _register(folder: Path) -> str:
    if not (folder / Registration.FILE).exists():
        return "recorded, without a version"
    registration = Registration.load(folder)
    return f"{registration.model} version {registration.version}"


def _publish(folder: Path) -> str:
    publication = Publication.load(folder)
    return f"models/{publication.model}/{publication.version}/"


def _confirm(folder: Path) -> str:
    return f"version {Confirmation.load(folder).version} answers and is the champion"


_WORDS: Mapping[str, Callable[[Path], str]] = {
    "scan": _scan,
    "validate": _validate,
    "split": _split,
    "shards": _shards,
    "augment": _augment,
    "train": _train,
    "export": _export,
    "evaluate": _evaluate,
    "champion": _evaluate,
    "smoke_test": _smoke_test,
    "gate": _gate,
    "report": _report,
    "reference": _reference,
    "register": _register,
    "publish": _publish,
    "confirm": _confirm,
}
