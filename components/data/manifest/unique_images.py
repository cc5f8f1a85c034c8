"""The unique images of a manifest as numbers, about a hundred bytes each."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.artifacts.data import SPLITS
from pergola.components.data.manifest.parquet import batches

NO_SPLIT = -1
NO_IMAGE = -1
_ID = "S32"  # a raw SHA-256. NumPy drops trailing zero bytes, see `_hex`


@dataclass(frozen=True)
class UniqueImages:
    """Images in order of their ids.

    ids: S32 (N,).  row: int64 (N,), the first file of the manifest that holds the image and is not excluded.
    label: int32 (N,), an index of `labels`, which are sorted.  given: int8 (N,), the given split as an index
    of SPLITS, or NO_SPLIT; of several the last one, so that no test image is used for training.
    """

    ids: np.ndarray
    row: np.ndarray
    label: np.ndarray
    given: np.ndarray
    labels: tuple[str, ...]

    def hex(self, image: int) -> str:
        """An image's id as 64 hex digits."""
        return _hex(self.ids[image])

    def find(self, ids: np.ndarray) -> np.ndarray:
        """The images with these ids, int64; NO_IMAGE for an unknown id."""
        images = np.searchsorted(self.ids, ids)
        images[images == len(self.ids)] = 0
        return np.where(self.ids[images] == ids, images, NO_IMAGE) if len(self.ids) else images + NO_IMAGE


def read(folder: Path, excluded: Container[str]) -> UniqueImages:
    """The readable images of a manifest. excluded: paths of files that are not used."""
    numbers: dict[str, int] = {}
    blocks: list[tuple[np.ndarray, ...]] = [_arrays([], [], [], [])]
    for start, columns in _columns(
        folder / "manifest.parquet", ["path", "label", "given_split", "id", "reason"]
    ):
        kept = [
            (raw(id), start + offset, numbers.setdefault(label, len(numbers)), _GIVEN[given])
            for offset, (path, label, given, id, reason) in enumerate(zip(*columns, strict=True))
            if reason is None and path not in excluded
        ]
        if kept:
            blocks.append(_arrays(*zip(*kept, strict=True)))
    ids, rows, labels, given = (np.concatenate(column) for column in zip(*blocks, strict=True))
    order = np.argsort(ids, kind="stable")
    begins = (
        np.flatnonzero(np.concatenate([[True], ids[order[1:]] != ids[order[:-1]]])) if len(ids) else order
    )
    first = order[begins]
    names = sorted(numbers)
    number = np.array([names.index(name) for name in numbers], np.int32)
    return UniqueImages(
        ids=ids[first],
        row=rows[first],
        label=number[labels[first]] if names else labels,
        given=np.maximum.reduceat(given[order], begins) if len(ids) else given,
        labels=tuple(names),
    )


def raw(id: str) -> bytes:
    """64 hex digits as bytes."""
    return bytes.fromhex(id)


def _hex(id: bytes) -> str:
    return bytes(id).ljust(32, b"\0").hex()


def earlier_splits(file: Path, images: UniqueImages) -> np.ndarray:
    """Each image's split in an earlier split.parquet, int8 (N,); NO_SPLIT for new images."""
    found = np.full(len(images.ids), NO_SPLIT, np.int8)
    for _, (ids, splits) in _columns(file, ["id", "split"]):
        places = images.find(np.array([raw(id) for id in ids], _ID))
        known = places != NO_IMAGE
        found[places[known]] = np.array([_GIVEN[split] for split in splits], np.int8)[known]
    return found


def paths(folder: Path, rows: np.ndarray) -> Iterator[tuple[slice, list[str]]]:
    """Paths at the given rows, which are ascending: in blocks, each with its slice of `rows`."""
    for start, (names,) in _columns(folder / "manifest.parquet", ["path"]):
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


def _columns(file: Path, columns: list[str]) -> Iterator[tuple[int, list[list[Any]]]]:
    """Columns as lists, in blocks, each with the number of its first row."""
    for start, batch in batches(file, columns):
        yield start, [column.to_pylist() for column in batch.columns]


_GIVEN: Mapping[str | None, int] = {None: NO_SPLIT, **{name: number for number, name in enumerate(SPLITS)}}
