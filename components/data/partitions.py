"""Partitions of a data set that several machines process in parallel, merged to exactly what one would write.

Partition i of n holds every n-th image from the i-th on. So partitions have the same size whatever the order,
and taking a row from each in turn restores the order. For shards, partition i holds every n-th file.
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
from pergola.components.artifacts.data import Finding, Manifest, Shards, SourceFindings
from pergola.components.artifacts.record import Record
from pergola.components.data.manifest import parquet
from pergola.components.data.manifest.scan import (
    LIST_COLUMN,
    ManifestTotals,
    ScanSettings,
    finish,
    load_corrections,
    manifest_writer,
    read_all,
)
from pergola.components.data.shards import ShardPlan, ShardSettings
from pergola.components.data.sources.source import Entry, Source
from pergola.components.disk import explained
from pergola.components.errors import StepError

_BATCH = 2048


@dataclass(frozen=True)
class Partition(Record):
    """The partition of a data set that an artifact belongs to."""

    FILE = "partition.json"

    index: int  # from 0
    count: int
    kind: str  # of the source


@dataclass(frozen=True)
class _PartitionSource:
    """The images of one partition, as a source."""

    source: Source
    index: int
    count: int

    @property
    def kind(self) -> str:
        return self.source.kind

    @property
    def scratch(self) -> Path:
        """A folder for this partition alone, since partitions are read in parallel."""
        return self.source.scratch / f"part-{self.index}-of-{self.count}"

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source.columns

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.source.findings

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
    """Write the rows of partition `index` of `count`. It may have no images, or only those of one class."""
    _check(index, count)
    corrections = load_corrections(source, settings)
    read_all(_PartitionSource(source, index, count), out, settings, corrections, progress=progress)
    part = Partition(index, count, source.kind)
    part.save(out)
    if source.findings:
        SourceFindings(source.findings).save(out)
    return part


def merge_scans(parts: Sequence[Path], out: Path) -> Manifest:
    """The manifest of the whole data set, byte for byte what `manifest.scan.scan` writes.

    parts: what scan_partition wrote, in any order. Memory does not grow with the number of images.
    Raises StepError for partitions that are missing or not of the same data set, and InputError as scan does.
    """
    first, folders = _in_order(parts)
    totals, columns = ManifestTotals(), _extra_columns(folders[0])
    all_rows = [parquet.rows(folder / "manifest.parquet") for folder in folders]
    with explained(out), manifest_writer(out, columns) as table:
        for rows in _batched(_in_turn(all_rows)):
            table.add(rows)
            totals.add((row[1] for row in rows), (row[-1 - len(columns)] for row in rows))
    return finish(first.kind, totals, out, SourceFindings.of(folders[0]).findings)


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
    """Write every `count`-th file of the shards, from the `index`-th on; there may be none."""
    _check(index, count)
    plan = ShardPlan.of(manifest, split, settings)
    with explained(out):
        plan.write(source, out, settings.workers, progress, files=plan.files()[index::count])
        part = Partition(index, count, source.kind)
        part.save(out)
    return part


def merge_shards(
    parts: Sequence[Path], manifest: Path, split: Path, out: Path, settings: ShardSettings
) -> Shards:
    """The shards of the whole data set, byte for byte what `shards.write_shards` writes.

    Raises StepError for partitions that are missing or not of this split.
    """
    _, folders = _in_order(parts)
    plan = ShardPlan.of(manifest, split, settings)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        for place, (name, _) in enumerate(plan.files()):
            folder = folders[place % len(folders)]
            if not (folder / name).is_file():
                raise StepError(
                    f"Partition {place % len(folders)} of the shards lacks {name}: run the step again."
                )
            _put(folder / name, out / name)
        return plan.index(out)


def _check(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise StepError(f"There is no partition {index} of {count}: expected 0 to {count - 1}.")


def _in_order(parts: Sequence[Path]) -> tuple[Partition, list[Path]]:
    """The partitions by index; each must be there exactly once."""
    found = {}
    for folder in parts:
        part = Partition.load(folder)
        found[part.index] = (part, folder)
    if not found:
        raise StepError("There are no partitions to merge. Run the steps that write them first.")
    first = found[min(found)][0]
    alike = all((part.count, part.kind) == (first.count, first.kind) for part, _ in found.values())
    if sorted(found) != list(range(first.count)) or len(parts) != first.count or not alike:
        raise StepError(
            f"Expected partitions 0 to {first.count - 1} of one data set, got {sorted(found)}: run all again."
        )
    return first, [found[index][1] for index in sorted(found)]


def _in_turn(parts: list[Iterator[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
    """A row of each partition in turn. When one has no more rows, none may have."""
    while True:
        for place, rows in enumerate(parts):
            row = next(rows, None)
            if row is None:
                if any(next(others, None) is not None for others in [*parts[place + 1 :], *parts[:place]]):
                    raise StepError(
                        "The partitions are not of the same data set: the images changed. Run all again."
                    )
                return
            yield row


def _batched(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _extra_columns(folder: Path) -> tuple[str, ...]:
    """The extra columns of a list."""
    import pyarrow.parquet

    names = pyarrow.parquet.read_schema(folder / "manifest.parquet").names
    return tuple(name.removeprefix(LIST_COLUMN) for name in names if name.startswith(LIST_COLUMN))


def _put(source: Path, target: Path) -> None:
    """Link the file, or copy it where it cannot be linked."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
