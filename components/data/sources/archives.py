"""Archives of images, unpacked once and safely into the scratch folder."""

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
    """Whether a file is an archive, by its name."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, scratch: Path, *, max_bytes: int, max_files: int) -> Path:
    """A folder below `scratch` with the archive's contents, reused while the archive does not change.

    Raises InputError for a damaged archive, a member whose name or link points outside of it, a member that
    is not a file, folder or link, and for more than `max_bytes` (unpacked) or `max_files`.
    """

    def fill(folder: Path) -> None:
        target = _Target(archive, folder, max_bytes, max_files)
        (_unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar)(archive, target)
        target.make_links()

    return staged(scratch, [archive], fill)


def staged(scratch: Path, files: list[Path], fill: Callable[[Path], None]) -> Path:
    """A folder below `scratch` that `fill` creates from `files`, once and completely.

    It is created again when a file's size or times differ; the folder of the older files is deleted.
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
    """The folder that an archive is unpacked into, with the remaining limits."""

    archive: Path
    folder: Path
    bytes_left: int
    files_left: int
    links: dict[Path, str] = field(default_factory=dict)

    def place(self, name: str) -> Path:
        """The path of a member. Raises InputError when it is outside of the folder."""
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise InputError(
                f"'{self.archive}' holds '{name}', whose path leads out of the archive: it was not "
                "unpacked. Create it again with relative paths."
            )
        self.files_left -= 1
        if self.files_left < 0:
            raise InputError(
                f"'{self.archive}' holds too many files: it was not unpacked. Raise scan.max_archive_files "
                "if you trust it."
            )
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
                    raise InputError(
                        f"'{self.archive}' unpacks to too many bytes: it was not unpacked. Raise "
                        "scan.max_archive_bytes if you trust it."
                    )
                with explained(self.folder):
                    file.write(chunk)

    def link(self, place: Path, goal: str) -> None:
        """Store a symbolic link for later, so that nothing is ever written through one."""
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
            "not unpacked. Pack the images themselves."
        )


def _unpack_tar(archive: Path, target: _Target) -> None:
    with _reading(archive), tarfile.open(archive, "r:*") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # otherwise it keeps all of them in memory
            place = target.place(member.name)
            if member.isdir():
                continue
            if member.issym():
                target.link(place, member.linkname)
            elif member.islnk():
                # Another name of an earlier file.
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
                    f"'{archive}' holds '{member.name}', which is not a file, folder or link: it was "
                    "not unpacked."
                )


def _unpack_zip(archive: Path, target: _Target) -> None:
    with _reading(archive), zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            place = target.place(member.filename)
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise InputError(f"'{archive}' is encrypted: unpack it yourself and give the folder.")
            with zipped.open(member) as data:
                if stat.S_ISLNK(member.external_attr >> 16):
                    target.link(place, os.fsdecode(data.read(4096)))
                else:
                    target.write(place, data)


class _reading:
    """Turns whatever a damaged archive raises into an InputError; our own errors pass."""

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
                f"'{self.archive}' cannot be unpacked: it is truncated, damaged or not an archive "
                f"({error}). Download it again."
            ) from None
