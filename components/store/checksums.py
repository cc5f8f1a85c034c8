"""The checksum list of a published version (serving/wire/checksums.py), with the errors of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pergola.components.store.store_errors import ChecksumError, MissingVersion
from pergola.serving.wire import checksums
from pergola.serving.wire.checksums import CHECKSUMS, GRAPHS

__all__ = ["CHECKSUMS", "GRAPHS", "NOTES", "format_checksums", "of_model", "parse_checksums", "verify"]

NOTES = "assets.extra/pergola"
format_checksums = checksums.to_bytes


def of_model(sums: Mapping[str, str]) -> dict[str, str]:
    """The checksums of the model's own files, without the notes of its release."""
    return {name: sum for name, sum in sums.items() if not name.startswith(f"{NOTES}/")}


def verify(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of a version's files, which were all read. Raises ChecksumError, MissingVersion."""
    with _store_errors():
        return checksums.verify(folder)


def parse_checksums(content: bytes, where: str) -> dict[str, str]:
    """Path -> SHA-256, from sha256sum's format. Raises ChecksumError for anything else, also ../paths."""
    with _store_errors():
        return checksums.parse(content, where)


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except checksums.NoChecksums as error:
        raise MissingVersion(str(error)) from None
    except checksums.DamagedVersion as error:
        raise ChecksumError(str(error)) from None
