"""Artifact of the gate: rules with their values, and the decision with its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pergola.components.artifacts.record import Record

ACCEPTED, HELD, REJECTED = OUTCOMES = ("accepted", "held", "rejected")
HELD_BY_REQUEST = "--no-release was given, so this model is held although all rules passed."


@dataclass(frozen=True)
class Rule:
    """The result of one rule of the gate."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    message: str  # value and limit in words
    interval: tuple[float, float] | None = None  # 95%, of the value
    unit: str = "share"  # of value, interval and limit: "share", "probability", "ms", "MB", "cost", "count"
    sure: bool = True  # False: it passed, but with too few images to rule out a fault
    holds: bool = False  # True: it passed, but the champion stays


@dataclass(frozen=True)
class Decision(Record):
    """Whether a model is released, and why.

    outcome: "accepted": it is registered and becomes the champion; "held": it is registered, but the champion
    stays until somebody promotes it; "rejected": it gets no version. Records of 0.1.0 say only whether it was
    accepted.  Raises ValueError when `outcome` and `accepted` contradict each other.
    """

    FILE: ClassVar[str] = "decision.json"

    accepted: bool
    rules: tuple[Rule, ...]
    reasons: tuple[str, ...]  # why it is held or rejected; empty if accepted
    champion: int | None  # the version it was compared with
    outcome: str = field(default="", metadata={"choices": ("", *OUTCOMES)})
    anchor: int | None = None  # the version that candidates after this one are also compared with; None: it
    warnings: tuple[str, ...] = ()  # open warnings about the data

    def __post_init__(self) -> None:
        if not self.outcome:
            object.__setattr__(self, "outcome", ACCEPTED if self.accepted else REJECTED)
        if self.accepted != (self.outcome == ACCEPTED):
            raise ValueError(f"A decision that is '{self.outcome}' cannot have accepted={self.accepted}.")

    @property
    def registers(self) -> bool:
        """Whether the model is good enough for a version number."""
        return self.outcome != REJECTED
