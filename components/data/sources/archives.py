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
from pathlib import Path

from pergola.components.data.sources import zip_names
from pergola.components.data.sources.archive_target import BoundedTarInfo, Target
from pergola.components.data.sources.settings import ScanSettings
from pergola.components.disk import explained
from pergola.components.errors import InputError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")
_ENTRY_BYTES = 46  # of a zip's directory, for each member, and its name
_END_BYTES = 22 + (1 << 16)  # of a zip, in which its directory is named
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, RuntimeError, ValueError)


def is_archive(name: str) -> bool:
    """Whether a file is an archive, by its name."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, scratch: Path, settings: ScanSettings) -> Path:
    """A folder below `scratch` with the archive's contents, reused while the archive does not change.

    Raises InputError for a damaged archive, a member whose name or link points outside of it, a member that
    is not a file, folder or link, for more bytes (unpacked) or files than the settings allow, for one that
    unpacks to far more than its size, for one that would fill the disk, and for names in a .zip whose
    encoding is not known.
    """
    encoding = settings.zip_encoding

    def fill(folder: Path) -> None:
        target = Target.of(archive, folder, settings.max_archive_bytes, settings.max_archive_files)
        with _reading(archive):
            if archive.name.lower().endswith(".zip"):
                _unpack_zip(archive, target, encoding)
            else:
                _unpack_tar(archive, target)
            target.make_links()

    return staged(scratch, [archive], fill, encoding)


def staged(scratch: Path, files: list[Path], fill: Callable[[Path], None], how: str = "") -> Path:
    """A folder below `scratch` that `fill` creates from `files`, once and completely.

    It is created again when a file's size or times differ, or `how`; the older folder is deleted.
    """
    name = files[0].name
    key = hashlib.sha256(how.encode())
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


def _unpack_tar(archive: Path, target: Target) -> None:
    with tarfile.open(archive, "r:*", tarinfo=BoundedTarInfo) as tar:
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


def _unpack_zip(archive: Path, target: Target, encoding: str) -> None:
    target.check_count(_directory_bytes(archive) // _ENTRY_BYTES)
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            place = target.place(zip_names.name_of(archive, member, encoding))
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                raise InputError(f"'{archive}' is encrypted: unpack it yourself and give the folder.")
            with zipped.open(member) as data:
                if stat.S_ISLNK(member.external_attr >> 16):
                    target.link(place, os.fsdecode(data.read(4096)))
                else:
                    target.write(place, data)


def _directory_bytes(zipped: Path) -> int:
    """Bytes of a zip's directory, which is read into memory as a whole."""
    size = zipped.stat().st_size
    with open(zipped, "rb") as file:
        file.seek(max(0, size - _END_BYTES))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    return min(size, int.from_bytes(end[at + 12 : at + 16], "little")) if at >= 0 else 0


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
