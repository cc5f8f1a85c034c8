"""What an archive may do to the folder that it is unpacked into: nothing outside of it, and not too much."""

from __future__ import annotations

import os
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from pergola.components.disk import explained
from pergola.components.errors import InputError

MAX_RATIO = 200  # bytes unpacked for each packed one; images hardly shrink, and a bomb is made of zeros
FREE_RATIO_BYTES = 100_000_000  # that may be unpacked at any ratio
RESERVE_BYTES = 1_000_000_000  # that stay free on the disk
_MAX_HEADER = 1 << 20  # bytes of a long name, or of a header with extensions
_MAX_LINKS = 40  # that one path may lead through
_CHUNK = 1 << 20


@dataclass
class Target:
    """The folder that an archive is unpacked into, with the remaining limits."""

    archive: Path
    folder: Path
    bytes_left: int
    files_left: int
    why_bytes: str  # what bounds the bytes, and what to do
    links: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def of(cls, archive: Path, folder: Path, max_bytes: int, max_files: int) -> Self:
        """The limits of an archive: the setting, the ratio of a bomb, or the room on the disk."""
        room = max(0, shutil.disk_usage(folder).free - RESERVE_BYTES)
        ratio = FREE_RATIO_BYTES + MAX_RATIO * archive.stat().st_size
        limit, why = min(
            (max_bytes, "too many bytes: it was not unpacked. Raise scan.max_archive_bytes if you trust it."),
            (room, "too many bytes for this disk, of which 1 GB stays free: free some space and run again."),
            (
                ratio,
                f"more than {MAX_RATIO} times its size, as a bomb does: if you trust it, unpack it yourself.",
            ),
        )
        return cls(archive, folder, limit, max_files, why)

    def check_count(self, num_files: int) -> None:
        """Raises InputError for more files than may come."""
        if num_files > self.files_left:
            raise InputError(
                f"'{self.archive}' holds too many files: it was not unpacked. Raise scan.max_archive_files "
                "if you trust it."
            )

    def place(self, name: str) -> Path:
        """The path of a member. Raises InputError when it is outside of the folder."""
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise InputError(
                f"'{self.archive}' holds '{name}', whose path leads out of the archive: it was not "
                "unpacked. Create it again with relative paths."
            )
        self.check_count(1)
        self.files_left -= 1
        return self.folder / name

    def write(self, place: Path, data: IO[bytes]) -> None:
        """Copy a member's bytes, within the limit."""
        with explained(self.folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            file = open(place, "wb")  # noqa: SIM115
        with file:
            while chunk := data.read(_CHUNK):
                self.bytes_left -= len(chunk)
                if self.bytes_left < 0:
                    raise InputError(f"'{self.archive}' unpacks to {self.why_bytes}")
                with explained(self.folder):
                    file.write(chunk)

    def link(self, place: Path, goal: str) -> None:
        """Store a symbolic link for later, so that nothing is ever written through one."""
        self.links[place] = goal

    def make_links(self) -> None:
        """Make the links, once it is known that all of them stay inside, whatever they lead through."""
        goals = {str(place.relative_to(self.folder)): goal for place, goal in self.links.items()}
        for name, goal in goals.items():
            parents = [str(parent) for parent in Path(name).parents]
            if any(parent in goals for parent in parents) or not _stays_inside(name, goals):
                raise InputError(
                    f"'{self.archive}' holds the link '{name}' to '{goal}', which leads out of the archive "
                    "or through another link: it was not unpacked. Pack the images themselves."
                )
        for place, goal in self.links.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(place):
                place.symlink_to(goal)


def _stays_inside(name: str, goals: dict[str, str]) -> bool:
    """Whether a path, followed through all links, never leaves the folder. goals: the links by name."""
    left, here, followed = name.split("/")[::-1], list[str](), 0
    while left:
        part = left.pop()
        if part == "..":
            if not here:
                return False
            here.pop()
        elif part not in ("", "."):
            here.append(part)
        goal = goals.get("/".join(here)) if here and part != ".." else None
        if goal is not None:
            followed += 1
            if goal.startswith("/") or followed > _MAX_LINKS:
                return False
            here.pop()
            left.extend(goal.split("/")[::-1])
    return bool(here)


class BoundedTarInfo(tarfile.TarInfo):
    """A member whose header takes little memory: Python reads long names and extensions as a whole."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        extended = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, *_PAX_TYPES)
        if self.type in extended and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse()
        member: Any = super()._proc_member(tar)  # type: ignore[misc]
        if any(key.startswith("GNU.sparse.") for key in getattr(member, "pax_headers", ())):
            raise _sparse()
        if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > _MAX_HEADER:
            raise tarfile.ReadError("too many global headers")
        return member

    def _proc_gnusparse_10(self, *_: Any) -> None:
        raise _sparse()


_PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def _sparse() -> tarfile.ReadError:
    return tarfile.ReadError("a file with holes, which an image has not")
