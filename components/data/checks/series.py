"""Series: several images of one object, as a column of the list says (a leaf's number, a patient's).

Images of one object may look quite different, so nothing but the person who took them can tell. They go to
one part of the split, as near-duplicates do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pergola.components.artifacts.data import WARNING, Finding
from pergola.components.data.manifest.scan import LIST_COLUMN
from pergola.components.errors import InputError
from pergola.components.records import nearest

CHECK = "object_split_leak"
_PATHS = 100  # named in a finding


@dataclass(frozen=True)
class Objects:
    """Objects of which there are several images."""

    column: str
    ids: tuple[frozenset[str], ...]  # of the images of an object
    torn: tuple[str, ...]  # paths of images whose object lies in several parts of a given split
    num_torn: int  # objects

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each object's images, one after another with the first."""
        for ids in self.ids:
            first, *others = sorted(ids)
            yield from ((first, other) for other in others)

    def finding(self) -> Finding | None:
        """That a given split tears objects apart."""
        if not self.torn:
            return None
        message = (
            f"{self.num_torn:,} objects ('{self.column}') have images in several parts of the given split, "
            f"such as '{self.torn[0]}': results will look better than they are. Put each into one part."
        )
        return Finding(CHECK, WARNING, len(self.torn), self.torn[:_PATHS], message)


def objects_of(manifest_folder: Path, column: str, without: Collection[str] = ()) -> Objects:
    """Of a manifest's list. without: paths that are left out. An image with an empty value is by itself.

    Raises InputError when the list has no such column.
    """
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(manifest_folder / "manifest.parquet") as file:
        _require(column, file.schema_arrow.names)
        table = file.read(["path", "id", "given_split", "reason", LIST_COLUMN + column])
    found: dict[str, list[tuple[str, str, str | None]]] = {}
    for path, id, part, reason, value in zip(*(c.to_pylist() for c in table.columns), strict=True):
        if value and reason is None and path not in without:
            found.setdefault(value, []).append((path, id, part))
    torn = [rows for rows in found.values() if len({part for _, _, part in rows if part}) > 1]
    several = (frozenset(id for _, id, _ in rows) for rows in found.values())
    return Objects(
        column=column,
        ids=tuple(ids for ids in several if len(ids) > 1),
        torn=tuple(path for rows in torn for path, _, _ in rows),
        num_torn=len(torn),
    )


def joined(groups: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Groups in which each pair is together: id -> the smallest id of its group, in order of id."""
    roots = dict(groups)

    def root(id: str) -> str:
        while roots.get(id, id) != id:
            id = roots[id]
        return id

    for pair in pairs:
        low, high = sorted(map(root, pair))
        roots[low] = roots[high] = low
    return {id: root(id) for id in sorted(roots)}


def _require(column: str, names: Iterable[str]) -> None:
    known = [name.removeprefix(LIST_COLUMN) for name in names if name.startswith(LIST_COLUMN)]
    if column in known:
        return
    hint = nearest(column, known) if known else " The data have none: give a list (CSV) with such a column."
    raise InputError(f"validate.group_by: there is no further column '{column}' in the list.{hint}")
