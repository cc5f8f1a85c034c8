"""What Kubeflow's UI shows of a run: Markdown, HTML pages, metrics and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.artifacts.data import (
    CRITICAL,
    INFO,
    WARNING,
    Manifest,
    Shards,
    Split,
    ValidationReport,
)
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Champion, Confirmation, FinalTest, Publication, Registration
from pergola.components.artifacts.training import Export, Training
from pergola.components.evaluation import figures
from pergola.components.evaluation.gate import formatting
from pergola.components.outside_text import markdown

if TYPE_CHECKING:
    from pergola.components.training.search.tune import Tuning

MAX_CLASSES = 60  # in a confusion matrix; larger ones are not readable
MAX_POINTS = 200  # of a ROC curve


@dataclass(frozen=True)
class Visual:
    """A further output of a step's task, which Kubeflow's UI shows.

    kind: of artifact, as kfp names it.  write: fills that artifact from the step's folder.
    """

    kind: str
    write: Callable[[Path, Any], None]


def show(step: str, folder: Path, given: Mapping[str, Any]) -> None:
    """Write the visuals of a step and the metadata of its artifact.  given: a component's arguments."""
    for name, page in PAGES.get(step, {}).items():
        if name in given:
            page.write(folder, given[name])
    for name, read in METADATA.get(step, {}).items():
        if name in given:
            given[name].metadata.update(read(folder))


def findings(report: ValidationReport) -> str:
    """Findings of the checks as Markdown, the most severe first."""
    order = {CRITICAL: 0, WARNING: 1, INFO: 2}
    lines = [f"**{'The data can be used.' if report.ok else 'The data cannot be used as it is.'}**", ""]
    lines += [f"{report.num_images} images, {len(report.quarantined)} excluded.", ""]
    if report.findings:
        lines += ["| severity | check | count | finding |", "|---|---|---|---|"]
    for found in sorted(report.findings, key=lambda f: order.get(f.severity, 3)):
        lines.append(
            f"| {found.severity} | {markdown(found.check)} | {found.count} | {markdown(found.message)} |"
        )
    return "\n".join(lines) + "\n"


def trials(tuning: Tuning) -> str:
    """The trials of a search, the best first, as Markdown."""
    ordered = sorted(tuning.trials, key=lambda trial: trial.val_accuracy or -1.0, reverse=True)
    lines = ["| trial | validation accuracy | seconds | settings |", "|---|---|---|---|"]
    for trial in ordered:
        score = markdown(trial.problem) if trial.problem else f"{trial.val_accuracy:.4f}"
        values = ", ".join(f"{name} = {markdown(str(value))}" for name, value in sorted(trial.values.items()))
        best = " (best)" if trial.id == tuning.best.id else ""
        lines.append(f"| {trial.id}{best} | {score} | {trial.seconds:.0f} | {values} |")
    return "\n".join(lines) + "\n"


def verdict(decision: Decision) -> str:
    """Rules of the gate as Markdown."""
    champion = f", compared with version {decision.champion}" if decision.champion else ""
    lines = [f"**{decision.outcome.capitalize()}**{champion}", ""]
    lines += ["| | rule | value | 95% interval | limit | |", "|---|---|---|---|---|---|"]
    for rule in decision.rules:
        mark = formatting.verdict(rule) if rule.passed else "**failed**"
        figures = " | ".join(formatting.of_rule(rule, which) for which in ("value", "interval", "limit"))
        lines.append(f"| {mark} | {markdown(rule.name)} | {figures} | {markdown(rule.message)} |")
    if decision.warnings:
        warnings = (f"- {markdown(one)}" for one in decision.warnings)
        lines += ["", "Open warnings about the data:", "", *warnings]
    return "\n".join(lines) + "\n"


def confusion(evaluation: Evaluation) -> tuple[list[str], list[list[int]]] | None:
    """Labels and [true][predicted]; None with more than MAX_CLASSES classes."""
    if len(evaluation.labels) > MAX_CLASSES:
        return None
    return list(evaluation.labels), [list(row) for row in evaluation.confusion]


def roc(folder: Path) -> tuple[list[float], list[float], list[float]] | None:
    """False positive rates, true positive rates and thresholds of an evaluation, falling thresholds.

    Two classes: of the second. More: micro-averaged, each probability against "is it this class".
    None when all answers are of one kind. At most 200 points; thresholds are finite (Kubeflow's are JSON).
    """
    import numpy as np
    import pyarrow.parquet as parquet
    from sklearn.metrics import roc_curve

    labels = Evaluation.load(folder).labels
    table = parquet.read_table(folder / "predictions.parquet", columns=["label", "probabilities"])
    truth = np.array([labels.index(label) for label in table["label"].to_pylist()])
    scores = np.array(table["probabilities"].to_pylist(), dtype=float).reshape(len(truth), -1)
    if len(labels) == 2:
        hits, values = truth == 1, scores[:, 1]
    else:
        hits, values = np.eye(len(labels), dtype=bool)[truth].ravel(), scores.ravel()
    if hits.all() or not hits.any():
        return None
    false_rates, true_rates, thresholds = roc_curve(hits, values)
    keep = np.unique(np.linspace(0, len(thresholds) - 1, MAX_POINTS).round().astype(int))
    finite = np.where(np.isfinite(thresholds), thresholds, 1.0)
    return false_rates[keep].tolist(), true_rates[keep].tolist(), finite[keep].tolist()


def _text(made: Callable[[Path], str]) -> Visual:
    return Visual("Markdown", lambda folder, page: _write(page, made(folder)))


def _copy(file: str) -> Visual:
    return Visual("HTML", lambda folder, page: _write(page, (folder / file).read_text(encoding="utf-8")))


def _write(page: Any, text: str) -> None:
    Path(page.path).write_text(text, encoding="utf-8")


def _scores(folder: Path, metrics: Any) -> None:
    for name, value in figures.of(folder).items():
        if value is not None:
            metrics.log_metric(name, value)


def _confusion(folder: Path, page: Any) -> None:
    if matrix := confusion(Evaluation.load(folder)):
        page.log_confusion_matrix(*matrix)


def _roc(folder: Path, page: Any) -> None:
    if curve := roc(folder):
        page.log_roc_curve(*curve)


PAGES: Mapping[str, Mapping[str, Visual]] = {
    "validate": {
        "data_page": _copy("index.html"),
        "findings": _text(lambda folder: findings(ValidationReport.load(folder))),
    },
    "evaluate": {
        "metrics": Visual("Metrics", _scores),
        "confusion": Visual("ClassificationMetrics", _confusion),
        "roc": Visual("ClassificationMetrics", _roc),
    },
    "gate": {"verdict": _text(lambda folder: verdict(Decision.load(folder)))},
    "report": {"report_page": _copy("report.html")},
}


def _scan(folder: Path) -> dict[str, Any]:
    found = Manifest.load(folder)
    return {"images": found.num_rows, "fingerprint": found.fingerprint}


def _train(folder: Path) -> dict[str, Any]:
    made = Training.load(folder)
    return {"architecture": made.architecture, "epochs": made.epochs, "best_epoch": made.best_epoch}


def _export(folder: Path) -> dict[str, Any]:
    made = Export.load(folder)
    return {"sha256": made.sha256, "bytes": made.num_bytes}


def _register(folder: Path) -> dict[str, Any]:
    return {"version": Registration.load(folder).version if (folder / Registration.FILE).is_file() else 0}


# step -> artifact -> metadata, which Kubeflow shows beside the artifact's address
METADATA: Mapping[str, Mapping[str, Callable[[Path], dict[str, Any]]]] = {
    "scan": {"manifest": _scan},
    "split": {"split": lambda folder: dict(Split.load(folder).counts)},
    "shards": {"shards": lambda folder: {"classes": len(Shards.load(folder).labels)}},
    "train": {"training": _train},
    "export": {"export": _export},
    "champion": {"champion": lambda folder: {"version": Champion.load(folder).version or 0}},
    "register": {"registration": _register},
    "publish": {"publication": lambda folder: {"version": Publication.load(folder).version}},
    "final_test": {"final_test": lambda folder: {"problem": FinalTest.load(folder).problem}},
    "confirm": {"confirmation": lambda folder: {"version": Confirmation.load(folder).version}},
}
