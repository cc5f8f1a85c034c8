"""A data set in parts that several machines read at once, put together to exactly what one makes.

Part i of n holds every n-th image from the i-th on, so parts are equally large whatever the order, and rows
go back into order by taking one from each part in turn. Of shards, part i holds every n-th file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pergola.components import progress
from pergola.components.artifacts.data import Manifest, Shards
from pergola.components.artifacts.record import Record
from pergola.components.data.manifest.scan import (
    LIST_COLUMN,
    Found,
    ScanSettings,
    Table,
    corrections_of,
    read_all,
    whole,
)
from pergola.components.data.shards import Plan, ShardSettings
from pergola.components.data.sources.source import Entry, Source
from pergola.components.disk import explained
from pergola.components.errors import StepError

_BATCH = 2048


@dataclass(frozen=True)
class Partition(Record):
    """Which part of a data set an artifact is of."""

    FILE = "partition.json"

    index: int  # from 0
    count: int
    kind: str  # of the source


@dataclass(frozen=True)
class _PartOf:
    """The images of one part, as a source."""

    source: Source
    index: int
    count: int

    @property
    def kind(self) -> str:
        return self.source.kind

    @property
    def scratch(self) -> Path:
        """Of this part alone: parts are read at once."""
        return self.source.scratch / f"part-{self.index}-of-{self.count}"

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source.columns

    def entries(self) -> Iterator[Entry]:
        return islice(self.source.entries(), self.index, None, self.count)

    def read(self, path: str) -> bytes:
        return self.source.read(path)


def scan_partition(
    source: Source,
    out: Path,
    settings: ScanSettings,
    index: int,
    count: int,
    *,
    progress: progress.Progress = progress.silent,
) -> Partition:
    """The rows of part `index` of `count`, in `out`; it may have no images, or those of one class."""
    _check(index, count)
    corrections = corrections_of(source, settings)
    read_all(_PartOf(source, index, count), out, settings, corrections, progress=progress)
    part = Partition(index, count, source.kind)
    part.save(out)
    return part


def merge_scans(parts: Sequence[Path], out: Path) -> Manifest:
    """The manifest of the whole data set: to the byte what `pergola.components.data.manifest.scan.scan`
    writes.

    parts: what scan_partition wrote, in any order. Memory does not grow with the number of images.
    Raises StepError for parts that are missing or not of one data set, InputError as scan does.
    """
    first, folders = _in_order(parts)
    found = Found()
    with explained(out), Table(out, _columns(folders[0])) as table:
        for rows in _batched(_in_turn([_rows(folder) for folder in folders])):
            table.add(rows)
            found.add((row[1] for row in rows), (row[-1 - len(table.columns)] for row in rows))
    return whole(first.kind, found, out)


def write_partition(
    source: Source,
    manifest: Path,
    split: Path,
    out: Path,
    settings: ShardSettings,
    index: int,
    count: int,
    *,
    progress: progress.Progress = progress.silent,
) -> Partition:
    """Every `count`-th file of the shards, from the `index`-th on; there may be none."""
    _check(index, count)
    plan = Plan.of(manifest, split, settings)
    with explained(out):
        plan.write(source, out, settings.workers, progress, files=plan.files()[index::count])
        part = Partition(index, count, source.kind)
        part.save(out)
    return part


def merge_shards(
    parts: Sequence[Path], manifest: Path, split: Path, out: Path, settings: ShardSettings
) -> Shards:
    """The shards of the whole data set: to the byte what `pergola.components.data.shards.write_shards`
    writes.

    Raises StepError for parts that are missing or not of this split.
    """
    _, folders = _in_order(parts)
    plan = Plan.of(manifest, split, settings)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        for place, (name, _) in enumerate(plan.files()):
            folder = folders[place % len(folders)]
            if not (folder / name).is_file():
                raise StepError(
                    f"Part {place % len(folders)} of the shards lacks {name}: run the step again."
                )
            _put(folder / name, out / name)
        return plan.index(out)


def _check(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise StepError(f"Part {index} of {count}: wanted 0 to {count - 1}.")


def _in_order(parts: Sequence[Path]) -> tuple[Partition, list[Path]]:
    """The parts by their index; each must be there once."""
    found = {}
    for folder in parts:
        part = Partition.load(folder)
        found[part.index] = (part, folder)
    if not found:
        raise StepError("There are no parts to put together.")
    first = found[min(found)][0]
    alike = all((part.count, part.kind) == (first.count, first.kind) for part, _ in found.values())
    if sorted(found) != list(range(first.count)) or len(parts) != first.count or not alike:
        raise StepError(
            f"Wanted the parts 0 to {first.count - 1} of one data set, got {sorted(found)}: run all again."
        )
    return first, [found[index][1] for index in sorted(found)]


def _in_turn(parts: list[Iterator[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
    """A row of each part in turn, until one has no more; then none may have."""
    while True:
        for place, rows in enumerate(parts):
            row = next(rows, None)
            if row is None:
                if any(next(others, None) is not None for others in [*parts[place + 1 :], *parts[:place]]):
                    raise StepError("The parts are not of one data set: the images changed. Run them again.")
                return
            yield row


def _batched(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _rows(folder: Path) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(folder / "manifest.parquet") as file:
        for batch in file.iter_batches(_BATCH):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _columns(folder: Path) -> tuple[str, ...]:
    """A list's further columns."""
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(folder / "manifest.parquet").names
    return tuple(name.removeprefix(LIST_COLUMN) for name in names if name.startswith(LIST_COLUMN))


def _put(source: Path, target: Path) -> None:
    """The same file there: linked where both are on one disk, otherwise copied."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
