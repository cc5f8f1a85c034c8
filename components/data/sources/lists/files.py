"""The files that a list means, where it names them without their folder or without their suffix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pergola.components.data.sources.folders.tree import images_below
from pergola.components.errors import InputError


@dataclass(frozen=True)
class FilesByName:
    """The images below the folder of a list, found by the last part of their path, with suffix or without."""

    location: Path  # of the list
    named: dict[str, list[str]]

    @classmethod
    def below(cls, folder: Path, location: Path) -> FilesByName:
        """The images below `folder`. location: the list, for messages and as a hint: train.csv, train/."""
        named: dict[str, list[str]] = {}
        for path, _ in images_below(str(folder)):
            pure = PurePosixPath(path)
            for name in {pure.name, pure.stem}:
                named.setdefault(name, []).append(path)
        return cls(location, named)

    def find(self, wanted: str) -> str | None:
        """The one file that is meant; None where there is none. Raises InputError where there are several."""
        pure = PurePosixPath(wanted.replace("\\", "/"))
        found = [path for path in self.named.get(pure.name, ()) if _ends_with(path, pure)]
        if len(found) > 1:
            found = self._hinted(found)
        if len(found) > 1:
            raise InputError(
                f"'{self.location}' names '{wanted}', which may be '{found[0]}' or '{found[1]}': write paths "
                "relative to the folder of the list."
            )
        return found[0] if found else None

    def find_all(self, wanted: Iterable[str]) -> dict[str, str]:
        """The files of all paths that have one."""
        found = {path: self.find(path) for path in wanted}
        return {path: file for path, file in found.items() if file is not None}

    def _hinted(self, found: list[str]) -> list[str]:
        """Those in a folder that begins like the list's name: train/, train_images/ for train.csv."""
        stem = self.location.stem.casefold()
        inside = [path for path in found if path.split("/")[0].casefold().startswith(stem)]
        return inside or found


def _ends_with(path: str, wanted: PurePosixPath) -> bool:
    parts = PurePosixPath(path).parts
    given = [part for part in wanted.parts if part not in ("/", "..")]
    if not given or len(given) > len(parts):
        return False
    last = parts[-1] if parts[-1] == given[-1] else PurePosixPath(parts[-1]).stem
    return [*parts[-len(given) : -1], last] == given
