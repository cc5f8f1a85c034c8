"""The looks that were taken at a released version: how many, up to which request, what each found.

They lie beside the last report, <folder>/looks.json, so that the next look judges only what came since and
spends only its share of the false alarms (drift.alpha_at). This is a history, so unlike an artifact it has a
clock in it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pergola.components.artifacts.record import Record
from pergola.components.evaluation.drift.drift import DriftReport


@dataclass(frozen=True)
class Look:
    """One look, at the requests from `since_s` to `until_s`. Times are seconds since 1970."""

    at_s: int
    since_s: int
    until_s: int
    num_requests: int
    drifted: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Looks(Record):
    """All looks at a version, oldest first."""

    FILE: ClassVar[str] = "looks.json"

    looks: tuple[Look, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Those in `folder`; none when there has been none. Raises InputError for a broken file."""
        return cls.load(folder) if (folder / cls.FILE).is_file() else cls()

    @property
    def number(self) -> int:
        """Of the next look, from 1."""
        return len(self.looks) + 1

    @property
    def since_s(self) -> int:
        """From when on requests have not been judged."""
        return self.looks[-1].until_s + 1 if self.looks else 0

    @property
    def drifted(self) -> int:
        """How many of the last looks found drift, one after another."""
        quiet = next((i for i, look in enumerate(reversed(self.looks)) if not look.drifted), None)
        return len(self.looks) if quiet is None else quiet

    def after(self, report: DriftReport, *, at_s: int, since_s: int, until_s: int) -> Self:
        """With one more look."""
        look = Look(at_s, since_s, until_s, report.num_live, report.drifted, report.reasons)
        return dataclasses.replace(self, looks=(*self.looks, look))
