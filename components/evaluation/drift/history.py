"""The drift checks of a released version so far: how many, up to which request, and their results.

They are kept beside the last report in <folder>/checks.json. The next check then tests only newer requests
and uses only its share of the false-alarm probability (drift.alpha_at). Unlike an artifact, this record
contains times.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pergola.components.artifacts.record import Record
from pergola.components.evaluation.drift.drift import DriftReport


@dataclass(frozen=True)
class DriftCheck:
    """One check, of the requests from `since_s` to `until_s`. Times are seconds since 1970."""

    at_s: int
    since_s: int
    until_s: int
    num_requests: int
    drifted: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class DriftHistory(Record):
    """All checks of a version, oldest first."""

    FILE: ClassVar[str] = "checks.json"

    checks: tuple[DriftCheck, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The history in `folder`; empty if there was no check. Raises InputError for a damaged file."""
        return cls.load(folder) if (folder / cls.FILE).is_file() else cls()

    @property
    def number(self) -> int:
        """The number of the next check, from 1."""
        return len(self.checks) + 1

    @property
    def since_s(self) -> int:
        """The time of the first request that was not checked yet."""
        return self.checks[-1].until_s + 1 if self.checks else 0

    @property
    def drifted(self) -> int:
        """How many of the latest checks in a row found drift."""
        quiet = next((i for i, check in enumerate(reversed(self.checks)) if not check.drifted), None)
        return len(self.checks) if quiet is None else quiet

    def after(self, report: DriftReport, *, at_s: int, since_s: int, until_s: int) -> Self:
        """With one more check."""
        check = DriftCheck(at_s, since_s, until_s, report.num_live, report.drifted, report.reasons)
        return dataclasses.replace(self, checks=(*self.checks, check))
