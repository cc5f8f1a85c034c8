"""When a model may ship, and what is known when that is decided."""

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
    """When a model may ship."""

    min_accuracy: float = setting(
        0.6, "lower end of the 95% interval of the test accuracy must reach this", low=0, high=1
    )
    beat_baselines: bool = setting(
        False, "true: the model must surely beat every baseline; false: a tie will do, but for the majority's"
    )
    min_recall: float = setting(
        0.3, "no class may surely be found less often than this (0: no such rule)", low=0, high=1
    )
    min_slice: float = setting(
        0.0, "accuracy that no slice may surely be below, such as 0.5 (0: no such rule)", low=0, high=1
    )
    max_gap: float = setting(
        0.15, "train accuracy may surely exceed test accuracy by no more (1: no such rule)", low=0, high=1
    )
    max_calibration_error: float = setting(
        0.1, "expected calibration error may surely be no more (1: no such rule)", low=0, high=1
    )
    max_drop: float = setting(
        0.3, "accuracy that a mild change of the images may surely cost (1: no such rule)", low=0, high=1
    )
    max_cost: float = setting(
        0.0, "with export.costs: what 1,000 images may surely cost at most (0: no such limit)", low=0
    )
    max_loss: float = setting(
        0.01, "test accuracy that may be lost to the champion, on the same images", low=0, high=1
    )
    prove_not_worse: bool = setting(
        False, "true: the loss must surely be within max_loss; false: a loss by chance is forgiven"
    )
    significance: float = setting(
        0.05, "how surprising a loss to the champion must be to count (McNemar)", low=0.0001, high=0.5
    )
    max_difference: float = setting(
        0.01, "how far a served probability may be from the evaluated one", low=0, high=1
    )
    max_latency_ms: float = setting(
        1000.0, "95th percentile of the smoke test's latency may surely be no more (0: no such rule)", low=0
    )
    max_size_mb: float = setting(500.0, "size of the exported model, MB (0: no such rule)", low=0)


@dataclass(frozen=True)
class Facts:
    """All that the rules may look at."""

    candidate: Evaluation
    smoke_test: SmokeTest | None = None  # None: not smoke-tested, which no model ships without
    comparison: Comparison | None = None  # None: there is no champion
    champion: int | None = None  # its version
    slices: Slices | None = None
    costs: CostReport | None = None  # None: nobody said what errors cost

    @classmethod
    def of(cls, evaluation: Path, champion: Path | None, smoke_test: Path, version: int | None) -> Self:
        """From the artifacts' folders. champion: its evaluation on the same images, with its version."""
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
