"""The distinct images of a manifest as numbers, about a hundred bytes each."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.artifacts.data import PARTS

NO_PART = -1
_BLOCK = 8192
_ID = "S32"  # a SHA-256, raw; a trailing zero byte is lost on the way to Python's bytes, see `_hex`


@dataclass(frozen=True)
class Distinct:
    """Images in order of their ids.

    ids: S32 (N,).  row: int64 (N,), the first file of the manifest that holds the image and is not left
    out.  label: int32 (N,), an index of `labels`, which are sorted.  given: int8 (N,), an index of PARTS or
    NO_PART; of several the last, so that what is for testing is not trained on.
    """

    ids: np.ndarray
    row: np.ndarray
    label: np.ndarray
    given: np.ndarray
    labels: tuple[str, ...]

    def hex(self, image: int) -> str:
        """An id as 64 digits."""
        return _hex(self.ids[image])

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Which images have these ids, int64; NO_PART where none has."""
        places = np.searchsorted(self.ids, ids)
        places[places == len(self.ids)] = 0
        return np.where(self.ids[places] == ids, places, NO_PART) if len(self.ids) else places + NO_PART


def read(folder: Path, without: Container[str]) -> Distinct:
    """The readable images of a manifest. without: paths of files that are left out."""
    numbers: dict[str, int] = {}
    parts: list[tuple[np.ndarray, ...]] = [_arrays([], [], [], [])]
    for start, columns in _batches(
        folder / "manifest.parquet", ["path", "label", "given_split", "id", "reason"]
    ):
        kept = [
            (raw(id), start + place, numbers.setdefault(label, len(numbers)), _GIVEN[given])
            for place, (path, label, given, id, reason) in enumerate(zip(*columns, strict=True))
            if reason is None and path not in without
        ]
        if kept:
            parts.append(_arrays(*zip(*kept, strict=True)))
    ids, rows, labels, given = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(ids, kind="stable")
    begins = (
        np.flatnonzero(np.concatenate([[True], ids[order[1:]] != ids[order[:-1]]])) if len(ids) else order
    )
    first = order[begins]
    names = sorted(numbers)
    number = np.array([names.index(name) for name in numbers], np.int32)
    return Distinct(
        ids=ids[first],
        row=rows[first],
        label=number[labels[first]] if names else labels,
        given=np.maximum.reduceat(given[order], begins) if len(ids) else given,
        labels=tuple(names),
    )


def raw(id: str) -> bytes:
    """64 digits as they are kept here."""
    return bytes.fromhex(id)


def _hex(id: bytes) -> str:
    return bytes(id).ljust(32, b"\0").hex()


def earlier_parts(file: Path, images: Distinct) -> np.ndarray:
    """The part of each image in an earlier split.parquet, int8 (N,); NO_PART for new ones."""
    found = np.full(len(images.ids), NO_PART, np.int8)
    for _, (ids, parts) in _batches(file, ["id", "part"]):
        places = images.places(np.array([raw(id) for id in ids], _ID))
        known = places != NO_PART
        found[places[known]] = np.array([_GIVEN[part] for part in parts], np.int8)[known]
    return found


def paths(folder: Path, rows: np.ndarray) -> Iterator[tuple[slice, list[str]]]:
    """Paths at some rows of a manifest, ascending: portion by portion, with the places in `rows`."""
    for start, (names,) in _batches(folder / "manifest.parquet", ["path"]):
        begin, end = np.searchsorted(rows, (start, start + len(names)))
        if end > begin:
            yield slice(begin, end), [names[row - start] for row in rows[begin:end].tolist()]


def _arrays(ids: Any, rows: Any, labels: Any, given: Any) -> tuple[np.ndarray, ...]:
    return (
        np.array(ids, _ID),
        np.array(rows, np.int64),
        np.array(labels, np.int32),
        np.array(given, np.int8),
    )


def _batches(file: Path, columns: list[str]) -> Iterator[tuple[int, list[list[Any]]]]:
    """Columns as lists, block by block, with the number of the first row."""
    import pyarrow.parquet

    start = 0
    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(_BLOCK, columns=columns):
            yield start, [batch.column(name).to_pylist() for name in columns]
            start += len(batch)


_GIVEN: Mapping[str | None, int] = {None: NO_PART, **{part: place for place, part in enumerate(PARTS)}}
