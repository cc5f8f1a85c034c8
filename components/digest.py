"""SHA-256 of files and folders: how the pipeline knows that nothing changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pergola.serving.wire.checksums import sha256_of


def of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    return sha256_of(path)


def of_folder(folder: Path) -> str:
    """SHA-256 over the sorted relative paths and contents of all files below `folder`, hex."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{of_file(path)}\n".encode())
    return digest.hexdigest()


def of_rows(rows: Iterable[tuple[Any, ...]]) -> str:
    """SHA-256 over rows, which the caller has sorted, hex."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(("\0".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()


def of_data(data: Any) -> str:
    """SHA-256 of plain data (dicts, lists, strings, numbers), independent of the order of keys, hex."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def of_named_file(file: str) -> str | None:
    """SHA-256 of the file in a setting; None if it is empty or missing (the step then reports that)."""
    return of_file(Path(file)) if file and Path(file).is_file() else None
