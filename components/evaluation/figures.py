"""The metrics of an evaluation by name, as the registry, `pergola run --json` and Kubeflow show them."""

from __future__ import annotations

from pathlib import Path

from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.evaluation.calibration import Calibration
from pergola.components.evaluation.cost_report import CostReport
from pergola.components.evaluation.slices import Slices


def of(folder: Path) -> dict[str, float | None]:
    """Metrics on the test split, unless the name says otherwise.

    With costs also cost_per_1000 and cost_saved_per_1000 (over the best constant action); with slices that
    are large enough also worst_slice_accuracy.
    """
    scores, calibrated = Evaluation.load(folder), Calibration.load(folder)
    found: dict[str, float | None] = {
        "accuracy": scores.accuracy,
        "macro_f1": scores.macro_f1,
        "train_accuracy": scores.train_accuracy,
        "log_loss": scores.log_loss,
        **{f"top_{k}_accuracy": value for k, value in scores.top_k.items()},
        "calibration_error": calibrated.error,
        "calibration_error_before": (calibrated.before or calibrated).error,
        "temperature": calibrated.temperature,
    }
    if (folder / CostReport.FILE).is_file():
        costs = CostReport.load(folder)
        found |= {"cost_per_1000": costs.spendings[0].per_thousand, "cost_saved_per_1000": costs.saving}
    worst = Slices.load(folder).worst() if (folder / Slices.FILE).is_file() else None
    return found | ({"worst_slice_accuracy": worst.accuracy} if worst else {})
