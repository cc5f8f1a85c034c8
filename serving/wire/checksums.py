"""The checksum list of a published version, in sha256sum's format. A server may check it.

A list names every file of the model. Standard library only: the sync sidecar has nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

CHECKSUMS = "checksums.sha256"
GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class DamagedVersion(Exception):
    """A version's files are not those of its checksum list. The text names the file."""


class NoChecksums(DamagedVersion):
    """A version without a checksum list."""


def verify(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of a version's files, all of which were read and match its checksum list.

    A graph that is not on the list does not belong to it: a server might load it instead.
    Raises DamagedVersion, NoChecksums.
    """
    sums = read(folder)
    for name, wanted in sums.items():
        path = folder / name
        try:
            matches = sha256_of(path) == wanted
        except OSError:
            matches = False
        if not matches:
            raise DamagedVersion(f"{path} is missing or does not match {CHECKSUMS}.")
    for name in GRAPHS:
        if name not in sums and (folder / name).exists():
            raise DamagedVersion(f"{folder / name} is not on the list {CHECKSUMS}: it was added later.")
    return sums


def read(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 from a version's checksum list. Raises DamagedVersion, NoChecksums."""
    path = folder / CHECKSUMS
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise NoChecksums(f"{folder} has no {CHECKSUMS}.") from None
    except OSError as error:
        raise DamagedVersion(f"{path} cannot be read: {error.strerror}.") from None


def parse(content: bytes, where: str) -> dict[str, str]:
    """Path -> SHA-256, from sha256sum's format. Raises DamagedVersion for anything else, also ../paths."""
    sums: dict[str, str] = {}
    for line in content.decode("utf-8", errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if not match or not _is_inside(match[2]):
            raise DamagedVersion(
                f"{where} has a line that is not the checksum of a file below it: {line[:120]!r}."
            )
        sums[match[2]] = match[1]
    if not any(name in sums for name in GRAPHS):
        raise DamagedVersion(f"{where} lists no model ({', '.join(GRAPHS)}).")
    return sums


def to_bytes(sums: Mapping[str, str]) -> bytes:
    """What `sha256sum -c` reads, sorted by path."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hex. Reads it in pieces, and lets other threads run."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and str(path) == name
