"""The base of artifacts: one JSON file, written and read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pergola.components import records


class Record:
    """An artifact with one JSON file; `FILE` names it."""

    FILE: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write into `folder`, which is created if missing."""
        records.save_json(self, folder / self.FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read from `folder`. Raises InputError if it is missing or of another class."""
        return records.load_json(cls, folder / cls.FILE)
