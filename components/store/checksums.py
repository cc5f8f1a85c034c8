"""The checksum list of a published version, in sha256sum's format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pergola.components import digest
from pergola.components.store.store_errors import ChecksumError, MissingVersion

CHECKSUMS = "checksums.sha256"
NOTES = "assets.extra/pergola"
GRAPHS = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def of_model(sums: Mapping[str, str]) -> dict[str, str]:
    """The checksums of the model's own files, without the notes of its release."""
    return {name: sum for name, sum in sums.items() if not name.startswith(f"{NOTES}/")}


def verify(folder: Path) -> None:
    """Check a version's folder against its checksum list. Raises ChecksumError, MissingVersion."""
    try:
        sums = parse_checksums((folder / CHECKSUMS).read_bytes(), str(folder / CHECKSUMS))
    except FileNotFoundError:
        raise MissingVersion(f"{folder} has no {CHECKSUMS}.") from None
    for name, wanted in sums.items():
        path = folder / name
        if not path.is_file() or digest.of_file(path) != wanted:
            raise ChecksumError(f"{path} is missing or does not match {CHECKSUMS}.")


def parse_checksums(content: bytes, where: str) -> dict[str, str]:
    """Path -> SHA-256, from sha256sum's format. Raises ChecksumError for anything else, also ../paths."""
    sums: dict[str, str] = {}
    for line in content.decode("utf-8", errors="replace").splitlines():
        match = _LINE.fullmatch(line)
        if not match or not _is_inside(match[2]):
            raise ChecksumError(
                f"{where} has a line that is not the checksum of a file below it: {line[:120]!r}."
            )
        sums[match[2]] = match[1]
    if not any(name in sums for name in GRAPHS):
        raise ChecksumError(f"{where} lists no model ({', '.join(GRAPHS)}).")
    return sums


def format_checksums(sums: Mapping[str, str]) -> bytes:
    """What `sha256sum -c` reads, sorted by path."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and str(path) == name
