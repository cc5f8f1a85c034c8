"""An artifact with one JSON file, and how it is written and read."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pergola.components import records


class Record:
    """An artifact with one JSON file; `FILE` names it."""

    FILE: ClassVar[str]

    def save(self, folder: Path) -> None:
        """Write into `folder`, which is made when missing."""
        records.save_json(self, folder / self.FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read from `folder`. Raises InputError when it is missing or of another kind."""
        return records.load_json(cls, folder / cls.FILE)
