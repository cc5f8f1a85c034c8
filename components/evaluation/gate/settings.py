"""The gate's settings and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.evaluation.cost_report import CostReport, compare_costs
from pergola.components.evaluation.slices import Slices
from pergola.components.records import setting
from pergola.components.stats.compare import Comparison, compare_evaluations


@dataclass(frozen=True)
class GateSettings:
    """The limits that a model must meet to be released."""

    min_accuracy: float = setting(
        0.6, "lower end of the 95% interval of the test accuracy must be at least this", low=0, high=1
    )
    beat_baselines: bool = setting(
        False,
        "true: the model must beat every baseline; false: a tie is enough, except with the majority class",
    )
    min_recall: float = setting(
        0.3, "lowest recall of a class, by the upper end of its 95% interval (0: no limit)", low=0, high=1
    )
    min_slice: float = setting(
        0.0,
        "lowest accuracy of a slice, by the upper end of its 95% interval, such as 0.5 (0: no limit)",
        low=0,
        high=1,
    )
    max_gap: float = setting(
        0.15,
        "largest train accuracy - test accuracy, by the lower end of its 95% interval (1: no limit)",
        low=0,
        high=1,
    )
    max_calibration_error: float = setting(
        0.1,
        "largest expected calibration error, by the lower end of its 95% interval (1: no limit)",
        low=0,
        high=1,
    )
    max_drop: float = setting(
        0.3,
        "largest loss of accuracy on mildly changed images, by its 95% interval (1: no limit)",
        low=0,
        high=1,
    )
    max_cost: float = setting(
        0.0, "with export.costs: largest cost of 1,000 images, by its 95% interval (0: no limit)", low=0
    )
    max_loss: float = setting(
        0.01, "test accuracy that may be lost to the champion on the same images", low=0, high=1
    )
    prove_not_worse: bool = setting(
        False, "true: a loss above max_loss must be ruled out; false: only a significant loss counts"
    )
    significance: float = setting(
        0.05,
        "significance level of a loss to the champion or a baseline (McNemar's test)",
        low=0.0001,
        high=0.5,
    )
    max_difference: float = setting(
        0.01, "largest difference between a served and an evaluated probability", low=0, high=1
    )
    max_latency_ms: float = setting(
        1000.0,
        "largest 95th percentile of the smoke test's latency, by its 95% interval (0: no limit)",
        low=0,
    )
    max_size_mb: float = setting(500.0, "largest size of the exported model, MB (0: no limit)", low=0)


@dataclass(frozen=True)
class GateInputs:
    """Everything that the rules can use."""

    candidate: Evaluation
    smoke_test: SmokeTest | None = None  # None: not smoke-tested; the gate rejects it
    comparison: Comparison | None = None  # None: there is no champion
    champion: int | None = None  # its version
    slices: Slices | None = None
    costs: CostReport | None = None  # None: the cost of errors is not known

    @classmethod
    def of(cls, evaluation: Path, champion: Path | None, smoke_test: Path, version: int | None) -> Self:
        """Loaded from artifact folders. champion: its evaluation on the same images; version: its number."""
        costs = None
        if (evaluation / CostReport.FILE).is_file():
            costs = compare_costs(evaluation, champion) if champion else CostReport.load(evaluation)
        return cls(
            candidate=Evaluation.load(evaluation),
            smoke_test=SmokeTest.load(smoke_test),
            comparison=compare_evaluations(evaluation, champion) if champion else None,
            champion=version,
            slices=Slices.load(evaluation) if (evaluation / Slices.FILE).is_file() else None,
            costs=costs,
        )
