"""Manifests without image files: many rows in little time and memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from pergola.components.artifacts.data import Manifest
from pergola.components.data.manifest.image_metadata import THUMBNAIL_SIDE
from pergola.components.data.manifest.scan import schema

_ROW_GROUP = 8192
_COARSE = 8  # random squares per side of a thumbnail


def path_of(row: int, classes: int = 10) -> str:
    """The path of a row."""
    return f"{row:08}/class_{row % classes}.png"


def write_manifest(
    folder: Path,
    rows: int,
    *,
    classes: int = 10,
    copies: Mapping[int, int] | None = None,
    unreadable: Collection[int] = (),
) -> Path:
    """A manifest of `rows` unique images; copies: row -> the row whose content it holds instead."""
    folder.mkdir(parents=True)
    with pa.parquet.ParquetWriter(folder / "manifest.parquet", schema()) as writer:
        for start in range(0, rows, _ROW_GROUP):
            numbers = range(start, min(rows, start + _ROW_GROUP))
            table = [_row(n, (copies or {}).get(n, n), classes, n in unreadable) for n in numbers]
            writer.write_table(pa.Table.from_pylist(table, schema=schema()))
    labels = tuple(sorted(f"class_{label}" for label in range(classes)))
    Manifest("folder", rows, len(unreadable), labels, "").save(folder)
    return folder


def _row(number: int, content: int, classes: int, unreadable: bool) -> dict[str, Any]:
    seed = hashlib.sha512(str(content).encode()).digest()
    coarse = np.frombuffer(seed, np.uint8).reshape(_COARSE, _COARSE)
    row: dict[str, Any] = {
        "path": path_of(number, classes), "label": f"class_{content % classes}", "given_split": None,
        "id": hashlib.sha256(seed).hexdigest(), "bytes": 500, "orientation": 1, "width": 0, "height": 0,
        "brightness": 0.0, "contrast": 0.0, "sharpness": 0.0,
    }  # fmt: skip
    if unreadable:
        return {**row, "reason": "it is empty"}
    thumbnail = coarse.repeat(THUMBNAIL_SIDE // _COARSE, 0).repeat(THUMBNAIL_SIDE // _COARSE, 1)
    return row | {
        "format": "PNG", "mode": "L", "width": 200, "height": 160, "brightness": float(coarse.mean()),
        "contrast": float(coarse.std()), "sharpness": 500.0,
        "thumbnail": thumbnail.tobytes(),
    }  # fmt: skip
