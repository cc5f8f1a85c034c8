"""Series: several images of one object, according to a column of the list (a leaf's number, a patient's).

Images of one object may look quite different, so only the person who took them knows that they belong
together. They go to one split, as near-duplicates do.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pergola.components.data.manifest.duplicates import components
from pergola.components.data.manifest.scan import LIST_COLUMN
from pergola.components.errors import InputError
from pergola.components.records import nearest


@dataclass(frozen=True)
class Series:
    """Objects with several images each."""

    column: str
    ids: tuple[frozenset[str], ...]  # the images of each object
    split_paths: tuple[str, ...]  # images of objects that a given split puts into several splits
    num_split: int  # such objects

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The first image of each object with each of its other images."""
        for ids in self.ids:
            first, *others = sorted(ids)
            yield from ((first, other) for other in others)


def read_series(manifest_folder: Path, column: str, excluded: Container[str] = ()) -> Series:
    """The series in a manifest. excluded: paths that are not used. An image without a value is on its own.

    Raises InputError when the list has no such column.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(manifest_folder / "manifest.parquet") as file:
        _require(column, file.schema_arrow.names)
        table = file.read(["path", "id", "given_split", "reason", LIST_COLUMN + column])
    objects: dict[str, list[tuple[str, str, str | None]]] = {}
    for path, id, split, reason, value in zip(*(c.to_pylist() for c in table.columns), strict=True):
        if value and reason is None and path not in excluded:
            objects.setdefault(value, []).append((path, id, split))
    divided = [rows for rows in objects.values() if len({split for _, _, split in rows if split}) > 1]
    all_ids = (frozenset(id for _, id, _ in rows) for rows in objects.values())
    return Series(
        column=column,
        ids=tuple(ids for ids in all_ids if len(ids) > 1),
        split_paths=tuple(path for rows in divided for path, _, _ in rows),
        num_split=len(divided),
    )


def merge_groups(groups: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups in which each pair is together: id -> the smallest id of its group, in order of id.

    groups: id -> an id of its group.
    """
    links = [*groups.items(), *pairs]
    ids = sorted({id for link in links for id in link})
    number = {id: place for place, id in enumerate(ids)}
    numbers = np.array([(number[a], number[b]) for a, b in links], np.int64).reshape(-1, 2)
    return {id: ids[root] for id, root in zip(ids, components(numbers, len(ids)).tolist(), strict=True)}


def _require(column: str, names: Iterable[str]) -> None:
    known = [name.removeprefix(LIST_COLUMN) for name in names if name.startswith(LIST_COLUMN)]
    if column in known:
        return
    hint = nearest(column, known) if known else " The data have none: give a list (CSV) with such a column."
    raise InputError(f"validate.group_by: there is no further column '{column}' in the list.{hint}")
