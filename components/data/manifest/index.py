"""Relations between the rows of a manifest: copies, label conflicts, groups of near-duplicates.

An *image* is a unique content here; several files (rows) may hold it. Everything is stored as numbers, about
a hundred bytes per row, and the manifest is read in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pergola.components.artifacts.data import TEST, TRAIN, VALIDATION
from pergola.components.data.manifest import duplicates
from pergola.components.data.manifest.image_metadata import THUMBNAIL_SIDE
from pergola.components.data.manifest.parquet import batches

NO_IMAGE = -1
_SPLITS = {TEST: 0, VALIDATION: 1, TRAIN: 2}  # of equal files, a test file represents the image first
_NO_SPLIT = 3


@dataclass(frozen=True)
class ManifestIndex:
    """One row per file of the manifest, and one per unique image.

    image: int64 (rows,), the image that a file holds; NO_IMAGE when it is unreadable.
    first: int64 (images,), the file that represents each image, ascending.
    labels: int32 (images,), number of labels under which the image appears.
    group: int64 (images,), the group of near-duplicates, named by its smallest image.
    splits: int32 (images,), number of splits of a given split that hold the image or a near-duplicate.
    near_copies, near_labels: int32 (images,), other images in its group, and labels among all of them.
    median_side: median of the images' longer sides, in pixels; nan without images.
    """

    image: np.ndarray
    first: np.ndarray
    labels: np.ndarray
    group: np.ndarray
    splits: np.ndarray
    near_copies: np.ndarray
    near_labels: np.ndarray
    median_side: float


def build_index(folder: Path) -> ManifestIndex:
    """The index of the manifest in `folder`."""
    ids, labels, splits, sides, readable = _columns(folder)
    image, first = _images(ids, splits, readable)
    rows = np.flatnonzero(readable)
    group = _groups(folder, first, sides)
    of_group = group[image[rows]] if len(rows) else image[rows]
    given = splits[rows] < _NO_SPLIT
    sizes = np.bincount(group, minlength=len(first))
    return ManifestIndex(
        image=image,
        first=first,
        labels=_num_unique(image[rows], labels[rows], len(first)),
        group=group,
        splits=_num_unique(of_group[given], splits[rows][given], len(first))[group],
        near_copies=(sizes[group] - 1).astype(np.int32),
        near_labels=_num_unique(of_group, labels[rows], len(first))[group],
        median_side=float(np.median(sides[first])) if len(first) else np.nan,
    )


def texts(folder: Path, column: str, rows: np.ndarray) -> list[str]:
    """A text column's values at the given rows, which are ascending."""
    found: list[str] = []
    for start, batch in batches(folder / "manifest.parquet", [column]):
        inside = rows[(rows >= start) & (rows < start + len(batch))] - start
        found += batch.column(0).take(inside).to_pylist()
    return found


def thumbnails(folder: Path, rows: np.ndarray) -> np.ndarray:
    """Thumbnails at the given rows, which are ascending and readable: uint8 (n, side, side)."""
    blocks = list(_thumbnails(folder, rows))
    return np.concatenate(blocks) if blocks else np.zeros((0, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)


def _columns(folder: Path) -> tuple[np.ndarray, ...]:
    """Ids as uint64 (rows, 2), label numbers, given splits, longer sides, and whether a row is readable."""
    names: dict[str, int] = {}
    parts: list[tuple[np.ndarray, ...]] = []
    columns = ["id", "label", "given_split", "width", "height", "reason"]
    for _, batch in batches(folder / "manifest.parquet", columns):
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
    """Number the unique images in the order of the files that represent them."""
    rows = np.flatnonzero(readable)
    order = rows[np.lexsort((rows, splits[rows], ids[rows, 1], ids[rows, 0]))]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ids[order[1:]] != ids[order[:-1]]).any(axis=1)
    first = order[is_new]
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    image = np.full(len(ids), NO_IMAGE)
    image[order] = number[np.cumsum(is_new) - 1]
    return image, np.sort(first)


def _groups(folder: Path, first: np.ndarray, sides: np.ndarray) -> np.ndarray:
    pairs = duplicates.near_pairs(
        sides[first],
        blocks=lambda: _thumbnails(folder, first),
        at=lambda images: thumbnails(folder, first[images]),
    )
    return duplicates.components(pairs, len(first))


def _num_unique(keys: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """The number of different values of each key from 0 to count - 1."""
    pairs = np.unique(np.stack([keys, values.astype(np.int64)], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=count).astype(np.int32)


def _thumbnails(folder: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
    for start, batch in batches(folder / "manifest.parquet", ["thumbnail"]):
        inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(batch))] - start
        raw = b"".join(batch.column(0).take(inside).to_pylist())
        yield np.frombuffer(raw, np.uint8).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
