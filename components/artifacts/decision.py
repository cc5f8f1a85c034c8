"""Artifact of the gate: rules with their values, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class Rule:
    """The result of one rule of the gate."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    message: str  # value and limit in words
    interval: tuple[float, float] | None = None  # 95%, of the value
    unit: str = "share"  # of value, interval and limit: "share", "probability", "ms", "MB", "cost"
    sure: bool = True  # False: it passed, but with too few images to rule out a fault


@dataclass(frozen=True)
class Decision(Record):
    """Whether a model can be released, and why."""

    FILE: ClassVar[str] = "decision.json"

    accepted: bool
    rules: tuple[Rule, ...]
    reasons: tuple[str, ...]  # messages of the rules that failed; empty if accepted
    champion: int | None  # the version it was compared with
