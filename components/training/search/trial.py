"""The settings of a hyperparameter search, its trials and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pergola.components import records
from pergola.components.artifacts.record import Record

_TIE_BREAK = 1e-4  # weight of the validation loss, which ranks trials of equal accuracy


@dataclass(frozen=True)
class TuneSettings:
    """The search method and its budget."""

    method: str = records.setting("bayesian", "search method", choices=("random", "bayesian", "hyperband"))
    trials: int = records.setting(20, "maximum number of trials", low=1, high=10_000)
    minutes: float = records.setting(
        0.0, "maximum minutes of training, in all trials together; 0: no limit", low=0.0
    )
    seed: int = records.setting(0, "of the search: the same seed gives the same trials", low=0)


@dataclass(frozen=True)
class Trial(Record):
    """One combination of settings and its result."""

    FILE: ClassVar[str] = "trial.json"

    id: str
    values: Mapping[str, Any]  # "section.key" -> value
    val_accuracy: float | None  # of the best epoch; None: the trial failed
    val_loss: float | None
    epochs: int
    num_parameters: int
    seconds: float  # of training
    problem: str = ""  # why it failed
    history: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Tuning(Record):
    """The result of a search; best.toml beside it contains the best settings."""

    FILE: ClassVar[str] = "tuning.json"

    method: str
    best: Trial
    trials: tuple[Trial, ...]


OnTrial = Callable[[Trial], None]


def score(trial: Trial) -> float:
    """What the search maximises: validation accuracy, and of equal ones the lower loss."""
    assert trial.val_accuracy is not None and trial.val_loss is not None
    return trial.val_accuracy - _TIE_BREAK * min(trial.val_loss, 100.0)
