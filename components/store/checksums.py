"""The checksum list of a published version (serving/wire/checksums.py), with the errors of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pergola.components.store.store_errors import ChecksumError, MissingVersion, SignatureError
from pergola.serving.wire import checksums, signature
from pergola.serving.wire.checksums import CHECKSUMS, GRAPHS
from pergola.serving.wire.signature import NOTES

__all__ = [
    "CHECKSUMS",
    "GRAPHS",
    "NOTES",
    "format_checksums",
    "of_model",
    "parse_checksums",
    "verify",
    "verify_signature",
]

format_checksums = checksums.to_bytes


def of_model(sums: Mapping[str, str]) -> dict[str, str]:
    """The checksums of the model's own files, without the notes of its release."""
    return {name: sum for name, sum in sums.items() if not name.startswith(f"{NOTES}/")}


def verify(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of a version's files, which were all read. Raises ChecksumError, MissingVersion."""
    with _store_errors():
        return checksums.verify(folder)


def verify_signature(folder: Path, public_key: Path) -> None:
    """Check that the owner of a key signed a version's model. Raises SignatureError."""
    with _store_errors():
        signature.verify(folder, public_key)


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
    except signature.NotTrusted as error:
        raise SignatureError(str(error)) from None
    except checksums.DamagedVersion as error:
        raise ChecksumError(str(error)) from None
