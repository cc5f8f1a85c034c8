"""What Kubeflow's page of a run shows: short texts, and curves as its plots want them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.evaluation.gate import formatting

if TYPE_CHECKING:
    from pergola.components.training.search.tune import Tuning

MAX_CLASSES = 60  # in a confusion matrix; above it nobody can read one
MAX_POINTS = 200  # of a ROC curve


def findings(report: ValidationReport) -> str:
    """Findings of the checks as Markdown, the worst first."""
    order = {CRITICAL: 0, WARNING: 1, INFO: 2}
    lines = [f"**{'The data can be used.' if report.ok else 'The data cannot be used as they are.'}**", ""]
    lines += [f"{report.num_images} images, {len(report.quarantined)} kept out.", ""]
    if report.findings:
        lines += ["| severity | check | count | finding |", "|---|---|---|---|"]
    for found in sorted(report.findings, key=lambda f: order.get(f.severity, 3)):
        lines.append(f"| {found.severity} | {found.check} | {found.count} | {_cell(found.message)} |")
    return "\n".join(lines) + "\n"


def trials(tuning: Tuning) -> str:
    """The trials of a search, the best first, as Markdown."""
    ordered = sorted(tuning.trials, key=lambda trial: trial.val_accuracy or -1.0, reverse=True)
    lines = ["| trial | validation accuracy | seconds | settings |", "|---|---|---|---|"]
    for trial in ordered:
        score = trial.problem or f"{trial.val_accuracy:.4f}"
        values = ", ".join(f"{name} = {value}" for name, value in sorted(trial.values.items()))
        best = " (taken)" if trial.id == tuning.best.id else ""
        lines.append(f"| {trial.id}{best} | {score} | {trial.seconds:.0f} | {values} |")
    return "\n".join(lines) + "\n"


def verdict(decision: Decision) -> str:
    """Rules of the gate as Markdown."""
    champion = f", compared with version {decision.champion}" if decision.champion else ""
    lines = [f"**{'Accepted' if decision.accepted else 'Rejected'}**{champion}", ""]
    lines += ["| | rule | value | 95% interval | limit | |", "|---|---|---|---|---|---|"]
    for rule in decision.rules:
        mark = formatting.verdict(rule) if rule.passed else "**failed**"
        figures = " | ".join(formatting.of_rule(rule, which) for which in ("value", "interval", "limit"))
        lines.append(f"| {mark} | {rule.name} | {figures} | {_cell(rule.message)} |")
    return "\n".join(lines) + "\n"


def confusion(evaluation: Evaluation) -> tuple[list[str], list[list[int]]] | None:
    """Labels and [true][predicted]; None when there are too many classes to read it."""
    if len(evaluation.labels) > MAX_CLASSES:
        return None
    return list(evaluation.labels), [list(row) for row in evaluation.confusion]


def roc(folder: Path) -> tuple[list[float], list[float], list[float]] | None:
    """False positive rates, true positive rates and thresholds of an evaluation, falling thresholds.

    Two classes: of the second. More: micro-averaged, each probability against "is it this class".
    None without images of both kinds. At most 200 points; thresholds are finite (Kubeflow's are JSON).
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


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
