"""What a manifest tells only as a whole: copies, conflicts of labels, groups of near-duplicates.

A *image* is a distinct content here; several files (rows) may hold it. Everything is kept as numbers, about
a hundred bytes a row, and the manifest is read in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.artifacts.data import TEST, TRAIN, VALIDATION
from pergola.components.data.checks import duplicates
from pergola.components.data.manifest.image_metadata import THUMBNAIL_SIDE

NO_IMAGE = -1
_SPLITS = {TEST: 0, VALIDATION: 1, TRAIN: 2}  # which of equal files stands for all: the one for testing first
_NO_SPLIT = 3
_BLOCK = 8192


@dataclass(frozen=True)
class Facts:
    """A row a file of the manifest, and a row a distinct image.

    image: int64 (rows,), which image a file holds; NO_IMAGE when it is unreadable.
    first: int64 (images,), the file that stands for each, ascending.  labels: int32 (images,), under how
    many labels it lies.  group: int64 (images,), the smallest image that it is near to, or itself.
    splits: int32 (images,), how many parts of a given split hold it or a near copy.
    near_copies, near_labels: int32 (images,), other images in its group, and labels among all of them.
    median_side: of the longer sides of all images, in pixels; nan without images.
    """

    image: np.ndarray
    first: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    splits: np.ndarray
    near_copies: np.ndarray
    near_labels: np.ndarray
    median_side: float


def gather(folder: Path) -> Facts:
    """The facts of the manifest in `folder`."""
    ids, labels, splits, sides, readable = _columns(folder)
    image, first = _images(ids, splits, readable)
    rows = np.flatnonzero(readable)
    group = _groups(folder, first, sides)
    of_group = group[image[rows]] if len(rows) else image[rows]
    given = splits[rows] < _NO_SPLIT
    sizes = np.bincount(group, minlength=len(first))
    return Facts(
        image=image,
        first=first,
        labels=_distinct(image[rows], labels[rows], len(first)),
        group=group,
        splits=_distinct(of_group[given], splits[rows][given], len(first))[group],
        near_copies=(sizes[group] - 1).astype(np.int32),
        near_labels=_distinct(of_group, labels[rows], len(first))[group],
        median_side=float(np.median(sides[first])) if len(first) else np.nan,
    )


def texts(folder: Path, column: str, rows: np.ndarray) -> list[str]:
    """A text column's values at some rows, ascending."""
    found: list[str] = []
    for start, batch in _batches(folder, [column]):
        inside = rows[(rows >= start) & (rows < start + len(batch))] - start
        found += batch.column(0).take(inside).to_pylist()
    return found


def thumbnails(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Thumbnails at some rows, ascending, which must be readable: uint8 (n, side, side)."""
    blocks = list(_thumbnails(folder, rows))
    return np.concatenate(blocks) if blocks else np.zeros((0, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)


def _columns(folder: Path) -> tuple[np.ndarray, ...]:
    """ids uint64 (rows, 2), label numbers, places of given splits, longer sides, whether it is readable."""
    names: dict[str, int] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    columns = ["id", "label", "given_split", "width", "height", "reason"]
    for _, batch in _batches(folder, columns):
        ids, labels, splits = (batch.column(i).to_pylist() for i in range(3))
        raw = b"".join(bytes.fromhex(id[:32]) if id else bytes(16) for id in ids)
        parts.append(
            (
                np.frombuffer(raw, np.uint64).reshape(-1, 2),
                np.array([names.setdefault(label, len(names)) for label in labels], np.int32),
                np.array([_SPLITS.get(split, _NO_SPLIT) for split in splits], np.int8),
                np.maximum(*(batch.column(i).to_numpy() for i in (3, 4))),
                batch.column(5).is_null().to_numpy(zero_copy_only=False),
            )
        )
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _images(ids: np.ndarray, splits: np.ndarray, readable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct images in the order of the files that stand for them."""
    rows = np.flatnonzero(readable)
    order = rows[np.lexsort((rows, splits[rows], ids[rows, 1], ids[rows, 0]))]
    begins = np.ones(len(order), bool)
    begins[1:] = (ids[order[1:]] != ids[order[:-1]]).any(axis=1)
    stands = order[begins]
    number = np.empty(len(stands), np.int64)
    number[np.argsort(stands)] = np.arange(len(stands))
    image = np.full(len(ids), NO_IMAGE)
    image[order] = number[np.cumsum(begins) - 1]
    return image, np.sort(stands)


def _groups(folder: Path, first: np.ndarray, sides: np.ndarray) -> np.ndarray:
    pairs = duplicates.near_pairs(
        sides[first],
        blocks=lambda: _thumbnails(folder, first),
        some=lambda images: thumbnails(folder, first[images]),
    )
    return duplicates.components(pairs, len(first))


def _distinct(keys: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """For each key from 0 to count - 1, how many different values it has."""
    pairs = np.unique(np.stack([keys, values.astype(np.int64)], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=count).astype(np.int32)


def _thumbnails(folder: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
    for start, batch in _batches(folder, ["thumbnail"]):
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(batch))] - start
        raw = b"".join(batch.column(0).take(inside).to_pylist())
        yield np.frombuffer(raw, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def _batches(folder: Path, columns: list[str]) -> Iterator[tuple[int, Any]]:
    """Blocks of rows with the number of their first."""
    import pyarrow.parquet

    start = 0
    with pyarrow.parquet.ParquetFile(folder / "manifest.parquet") as file:
        for batch in file.iter_batches(_BLOCK, columns=columns):
            yield start, batch.select(columns)
            start += len(batch)
