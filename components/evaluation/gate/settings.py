"""The gate's settings and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pergola.components.artifacts.data import ValidationReport
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Champion
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.evaluation.cost_report import CostReport, compare_costs
from pergola.components.evaluation.model_contract import ContractChanges, ModelContract, changes
from pergola.components.evaluation.slices import Slices
from pergola.components.records import setting
from pergola.components.stats.compare import Comparison, compare_answers, compare_evaluations

NOT_WORSE, UNDECIDED = "not-worse", "undecided"


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
    promote: str = setting(
        NOT_WORSE,
        "which candidate replaces the champion: one that is at least as good on the same images or shown to "
        "lose no more than max_loss; or also one whose loss is not significant. Another one is held",
        choices=(NOT_WORSE, UNDECIDED),
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
    max_label_errors: float = setting(
        1.0, "largest share of images whose label looks wrong to the checks (1: no limit)", low=0, high=1
    )
    max_findings: int = setting(-1, "largest number of open warnings about the data (-1: no limit)", low=-1)


@dataclass(frozen=True)
class GateInputs:
    """Everything that the rules can use."""

    candidate: Evaluation
    smoke_test: SmokeTest | None = None  # None: not smoke-tested; the gate rejects it
    comparison: Comparison | None = None  # None: there is no champion
    champion: int | None = None  # its version
    champion_log_loss: float | None = None  # on the same images
    anchor: int | None = None  # an earlier version; None: the champion is its own anchor, or there is none
    anchor_comparison: Comparison | None = None  # None: no answers of the anchor to these images are known
    contract: ContractChanges | None = None  # None: there is no champion, or it was not recorded
    allow_contract_changes: bool = False
    validation: ValidationReport | None = None  # what the checks of the data found
    slices: Slices | None = None
    costs: CostReport | None = None  # None: the cost of errors is not known

    @classmethod
    def of(
        cls,
        evaluation: Path,
        champion: Path,
        champion_evaluation: Path,
        smoke_test: Path,
        validation: Path,
        *,
        allow_contract_changes: bool = False,
    ) -> Self:
        """Loaded from artifact folders."""
        beaten = Champion.load(champion)
        rival = champion_evaluation if beaten.version else None
        costs, answers = None, champion / Champion.ANSWERS
        if (evaluation / CostReport.FILE).is_file():
            costs = compare_costs(evaluation, rival) if rival else CostReport.load(evaluation)
        return cls(
            candidate=Evaluation.load(evaluation),
            smoke_test=SmokeTest.load(smoke_test),
            comparison=compare_evaluations(evaluation, rival) if rival else None,
            champion=beaten.version,
            champion_log_loss=Evaluation.load(rival).log_loss if rival else None,
            anchor=beaten.anchor,
            anchor_comparison=compare_answers(evaluation, answers) if answers.is_file() else None,
            slices=Slices.load(evaluation) if (evaluation / Slices.FILE).is_file() else None,
            costs=costs,
            contract=_contract(rival, evaluation),
            allow_contract_changes=allow_contract_changes,
            validation=ValidationReport.load(validation),
        )


def _contract(before: Path | None, now: Path) -> ContractChanges | None:
    folders = [folder for folder in (before, now) if folder and (folder / ModelContract.FILE).is_file()]
    return changes(*map(ModelContract.load, folders)) if len(folders) == 2 else None
