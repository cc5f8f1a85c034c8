"""What the gate leaves: rules with their values, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class Rule:
    """One rule of the gate, decided."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    message: str  # one sentence with value and limit
    interval: tuple[float, float] | None = None  # 95%, of the value
    unit: str = "share"  # of value, interval and limit: "share", "probability", "ms", "MB", "cost"
    sure: bool = True  # False: it passed because too few images are there to show a fault


@dataclass(frozen=True)
class Decision(Record):
    """Whether a model may ship, and why."""

    FILE: ClassVar[str] = "decision.json"

    accepted: bool
    rules: tuple[Rule, ...]
    reasons: tuple[str, ...]  # messages of the rules that failed; empty when accepted
    champion: int | None  # the version it was compared with
