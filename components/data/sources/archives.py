"""Archives of images, unpacked once and safely into a folder of ours."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pergola.components.disk import explained
from pergola.components.errors import InputError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
_CHUNK = 1 << 20
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError, ValueError)


def is_archive(name: str) -> bool:
    """Whether a file's name says that it is an archive."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, scratch: Path, *, max_bytes: int, max_files: int) -> Path:
    """A folder below `scratch` with what the archive holds; the one from last time when it did not change.

    Raises InputError for a damaged archive, a member whose name or link leads out of it, one that is no
    file, folder or link, and more than `max_bytes` (unpacked) or `max_files`.
    """

    def fill(folder: Path) -> None:
        target = _Target(archive, folder, max_bytes, max_files)
        (_unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar)(archive, target)
        target.make_links()

    return staged(scratch, [archive], fill)


def staged(scratch: Path, files: list[Path], fill: Callable[[Path], None]) -> Path:
    """A folder below `scratch` that `fill` has made from `files`: whole or not there, and made once.

    It is made anew when a file's size or time of change differs; what was made from older ones is deleted.
    """
    name = files[0].name
    key = hashlib.sha256()
    for file in files:
        info = file.stat()
        key.update(f"{file.absolute()}\0{info.st_size}\0{info.st_mtime_ns}\0{info.st_ctime_ns}\n".encode())
    folder = scratch / "unpacked" / f"{name}-{key.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    with explained(scratch):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for old in folder.parent.iterdir():
            if old.name.removeprefix(".").rsplit("-", 1)[0] == name:
                shutil.rmtree(old)
        partial = folder.with_name(f".{folder.name}")
        partial.mkdir()
        try:
            fill(partial)
            os.rename(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder


@dataclass
class _Target:
    """The folder that an archive is unpacked into, and what is still allowed."""

    archive: Path
    folder: Path
    bytes_left: int
    files_left: int
    links: dict[Path, str] = field(default_factory=dict)

    def place(self, name: str) -> Path:
        """Where a member goes. Raises InputError when that is outside."""
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise InputError(
                f"'{self.archive}' holds '{name}', whose path leads out of the archive: it was not "
                f"unpacked. Pack "
                f"the images anew with relative paths."
            )
        self.files_left -= 1
        if self.files_left < 0:
            raise InputError(
                f"'{self.archive}' holds too many files: it was not unpacked. Raise scan.max_archive_files "
                f"if it "
                f"is to be trusted."
            )
        return self.folder / name

    def write(self, place: Path, data: IO[bytes]) -> None:
        """Copy a member's bytes, counting them."""
        with explained(self.folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            file = open(place, "wb")  # noqa: SIM115
        with file:
            while chunk := data.read(_CHUNK):
                self.bytes_left -= len(chunk)
                if self.bytes_left < 0:
                    raise InputError(
                        f"'{self.archive}' unpacks to too many bytes: it was not unpacked. Raise "
                        f"scan.max_archive_bytes if it is to be trusted."
                    )
                with explained(self.folder):
                    file.write(chunk)

    def link(self, place: Path, goal: str) -> None:
        """Remember a symbolic link for later: nothing is ever written through one."""
        inside = os.path.normpath(os.path.join(place.parent.relative_to(self.folder), goal))
        if os.path.isabs(goal) or inside == ".." or inside.startswith("../"):
            raise self._leads_out(place, goal)
        self.links[place] = goal

    def make_links(self) -> None:
        for place, goal in self.links.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                place.symlink_to(goal)
        root = os.path.realpath(self.folder)
        for place, goal in self.links.items():
            if not os.path.realpath(place).startswith(root + os.sep):
                raise self._leads_out(place, goal)

    def _leads_out(self, place: Path, goal: str) -> InputError:
        name = place.relative_to(self.folder)
        return InputError(
            f"'{self.archive}' holds the link '{name}' to '{goal}', which leads out of the archive: it was "
            f"not "
            f"unpacked. Pack the images themselves."
        )


def _unpack_tar(archive: Path, target: _Target) -> None:
    with _reading(archive), tarfile.open(archive, "r:*") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # else it remembers all of them
            place = target.place(member.name)
            if member.isdir():
                continue
            if member.issym():
                target.link(place, member.linkname)
            elif member.islnk():
                # A second name of a file that came before.
                original = target.place(member.linkname)
                with open(original, "rb") as data:
                    target.write(place, data)
            elif member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                with content:
                    target.write(place, content)
            else:
                raise InputError(
                    f"'{archive}' holds '{member.name}', which is no file, folder or link: it was not "
                    f"unpacked."
                )


def _unpack_zip(archive: Path, target: _Target) -> None:
    with _reading(archive), zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            place = target.place(member.filename)
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise InputError(f"'{archive}' is encrypted: unpack it yourself and name the folder.")
            with zipped.open(member) as data:
                if stat.S_ISLNK(member.external_attr >> 16):
                    target.link(place, os.fsdecode(data.read(4096)))
                else:
                    target.write(place, data)


class _reading:
    """Whatever a damaged archive raises as one sentence; InputError and StepError pass."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from pergola.components.errors import PergolaError

        lzma_error = type(error).__name__ == "LZMAError"
        if isinstance(error, PergolaError) or error is None:
            return
        if isinstance(error, _DAMAGED) or lzma_error:
            raise InputError(
                f"'{self.archive}' cannot be unpacked, it is cut off, damaged or no archive ({error}): "
                f"fetch it "
                f"again."
            ) from None
