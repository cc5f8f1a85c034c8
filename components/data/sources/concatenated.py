"""Two data sets as one: the original images, and labelled images that were added later.

Paths of the second data set begin with "also:", so that they cannot clash with those of the first.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pergola.components.artifacts.data import Finding
from pergola.components.data.sources.labels import check_labels
from pergola.components.data.sources.source import Entry, Source
from pergola.components.errors import InputError

ALSO = "also:"


@dataclass(frozen=True)
class ConcatenatedSource:
    """All images of `first`, and those of `second` under ALSO. Extra columns are those of `first`."""

    first: Source
    second: Source

    @classmethod
    def of(cls, first: Source, second: Source, where: Path) -> ConcatenatedSource:
        """Raises InputError for classes of the two that look alike and are not the same. where: the first."""
        labels = {entry.label for source in (first, second) for entry in source.entries()}
        check_labels(labels - {""}, f"{where} together with scan.also")
        return cls(first, second)

    @property
    def kind(self) -> str:
        """The first source's."""
        return self.first.kind

    @property
    def scratch(self) -> Path:
        """The first source's."""
        return self.first.scratch

    @property
    def columns(self) -> tuple[str, ...]:
        """The first source's."""
        return self.first.columns

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of both."""
        return (*self.first.findings, *self.second.findings)

    def entries(self) -> Iterator[Entry]:
        """Every image of both, in order of path."""
        return heapq.merge(self._first(), self._second(), key=lambda entry: entry.path)

    def read(self, path: str) -> bytes:
        """An image file's bytes."""
        if path.startswith(ALSO):
            return self.second.read(path.removeprefix(ALSO))
        return self.first.read(path)

    def _first(self) -> Iterator[Entry]:
        for entry in self.first.entries():
            if entry.path.startswith(ALSO):
                raise InputError(
                    f"'{entry.path}' begins with '{ALSO}', which is for images of scan.also: rename it "
                    "or leave scan.also empty."
                )
            yield entry

    def _second(self) -> Iterator[Entry]:
        unknown = (None,) * len(self.columns)
        for entry in self.second.entries():
            yield dataclasses.replace(entry, path=ALSO + entry.path, extra=unknown)
