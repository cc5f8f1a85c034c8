"""What is in a data source: one row an image file, read in parallel and streamed to a Parquet file."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pergola.components import digest, progress
from pergola.components.artifacts.data import Manifest
from pergola.components.data.manifest.image_metadata import Limits, Look, look_at, version
from pergola.components.data.manifest.relabel import TAKEN_OUT, Corrections, read_relabel
from pergola.components.data.manifest.scan_cache import Known, Stamps
from pergola.components.data.sources.source import Entry, Source
from pergola.components.disk import explained
from pergola.components.errors import InputError, StepError
from pergola.components.records import setting

LIST_COLUMN = "list."  # before the names of a list's further columns in the manifest

_CHUNK_FILES = 64
_CHUNK_BYTES = 32 << 20
_ROW_GROUP = 8192


@dataclass(frozen=True)
class ScanSettings:
    """How images are read, and which are refused as unreadable."""

    workers: int = setting(0, "processes that read images; 0: one a core", low=0, high=1024)
    max_pixels: int = setting(100_000_000, "more pixels than this are not decoded", low=1)
    max_side: int = setting(30_000, "wider or higher images are not decoded, in pixels", low=1)
    max_bytes: int = setting(250_000_000, "larger image files are not read, in bytes", low=1)
    max_archive_bytes: int = setting(200_000_000_000, "an archive may unpack to this many bytes", low=1)
    max_archive_files: int = setting(5_000_000, "an archive may hold this many files", low=1)
    relabel: str = setting("", "relabel.csv with a person's corrections of labels; empty: none", file=True)
    also: str = setting("", "more images: a second folder or list, such as the one that `feedback` names")


def scan(
    source: Source,
    out: Path,
    settings: ScanSettings,
    *,
    previous: Path | None = None,
    progress: progress.Progress = progress.silent,
) -> Manifest:
    """The manifest of everything in `source`, written to `out`; its rows are in manifest.parquet.

    An unreadable file is a row with a reason. Memory does not grow with the number of images.
    previous: folder of an earlier manifest. Rows of files whose size and times did not change since are taken
    from it; the times are kept in `source.scratch`, since a manifest holds nothing but content.
    Labels are those of the source, as `settings.relabel` corrects them.
    Raises InputError when there are no images or fewer than two classes, and for corrections that cannot be
    read.
    """
    corrections = corrections_of(source, settings)
    found = read_all(source, out, settings, corrections, previous=previous, progress=progress)
    return whole(source.kind, found, out)


@dataclass
class Found:
    """What the rows of a manifest add up to."""

    num_rows: int = 0
    num_unreadable: int = 0
    num_taken_out: int = 0
    labels: set[str] = field(default_factory=set)

    def add(self, labels: Iterable[str], reasons: Iterable[str | None]) -> None:
        """Count rows in; an image without a label has the empty one."""
        self.labels.update(filter(None, labels))
        for reason in reasons:
            self.num_rows += 1
            self.num_unreadable += reason is not None and reason != TAKEN_OUT
            self.num_taken_out += reason == TAKEN_OUT


def read_all(
    source: Source,
    out: Path,
    settings: ScanSettings,
    corrections: Corrections,
    *,
    previous: Path | None = None,
    progress: progress.Progress = progress.silent,
) -> Found:
    """A row an image of `source` in `out`'s manifest.parquet; whether they are enough is not asked."""
    limits = Limits(settings.max_pixels, settings.max_side, settings.max_bytes)
    state = digest.of_data([settings.max_pixels, settings.max_side, settings.max_bytes, version()])
    found = Found()
    with (
        explained(out),
        Table(out, source.columns) as table,
        Stamps(source.scratch, state) as stamps,
        Known(source.scratch, state, previous) as known,
        _Readers(source, limits, settings.workers) as readers,
        progress(desc="scan", unit=" images") as bar,
    ):
        for entries, looks in readers.read(_chunks(source, known)):
            stamps.add(entries, looks)
            entries, looks = corrections.apply(entries, looks)
            pairs = zip(entries, looks, strict=True)
            table.add((e.path, e.label, e.given_split, *look, *e.extra) for e, look in pairs)
            found.add((entry.label for entry in entries), (look.reason for look in looks))
            bar.update(len(entries))
    return found


def corrections_of(source: Source, settings: ScanSettings) -> Corrections:
    """What `settings.relabel` says. source: all of the data, whose classes are the ones there are."""
    if not settings.relabel:
        return Corrections({})
    labels = {entry.label for entry in source.entries()} - {""}
    return Corrections(read_relabel(Path(settings.relabel), labels))


def whole(kind: str, found: Found, out: Path) -> Manifest:
    """The manifest of the rows that lie in `out`. Raises InputError when they make no classifier."""
    try:
        _check(found.labels, found.num_rows)
    except InputError:
        (out / "manifest.parquet").unlink(missing_ok=True)
        raise
    fingerprint = digest.of_rows(_content(out))
    labels = tuple(sorted(found.labels))
    manifest = Manifest(kind, found.num_rows, found.num_unreadable, labels, fingerprint, found.num_taken_out)
    manifest.save(out)
    return manifest


def _check(labels: set[str], num_rows: int) -> None:
    if not num_rows:
        raise InputError("The data holds no images: nothing to do.")
    if len(labels) < 2:
        raise InputError(
            f"The data has a single class, '{next(iter(labels), '')}': a classifier needs at least two. Put "
            f"the "
            f"images of each class into a folder of its own."
        )


Chunk = tuple[list[Entry], list[Look | None]]


def _chunks(source: Source, known: Known) -> Iterator[Chunk]:
    """Entries in portions of about equal work, each with what is known of it from before."""
    entries: list[Entry] = []
    looks: list[Look | None] = []
    work = num_bytes = 0
    for entry in source.entries():
        look = known.find(entry)
        entries.append(entry)
        looks.append(look)
        if look is None:
            work, num_bytes = work + 1, num_bytes + entry.num_bytes
        if work >= _CHUNK_FILES or num_bytes >= _CHUNK_BYTES or len(entries) >= _ROW_GROUP:
            yield entries, looks
            entries, looks, work, num_bytes = [], [], 0, 0
    if entries:
        yield entries, looks


class _Readers:
    """Processes that look at images. The first portion is read here: a small folder needs no others."""

    def __init__(self, source: Source, limits: Limits, workers: int) -> None:
        self.source = source
        self.limits = limits
        self.workers = workers or len(os.sched_getaffinity(0))
        self.pool: ProcessPoolExecutor | None = None
        self.started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self.pool is not None:  # processes that have nothing left to do end while others go on
            self.pool.shutdown(wait=kind is not None, cancel_futures=True)

    def read(self, chunks: Iterator[Chunk]) -> Iterator[tuple[list[Entry], list[Look]]]:
        """Portions in the order in which they came, a few ahead of the caller and no more."""
        ahead: deque[tuple[list[Entry], list[Look | None], Future[list[Look]]]] = deque()
        for entries, looks in chunks:
            ahead.append((entries, looks, self._start(entries, looks)))
            if len(ahead) > 2 * self.workers:
                if self.pool is not None:
                    import pandas  # noqa: F401  # Arrow would at its first table: sooner, while processes start
                yield self._finish(*ahead.popleft())
        while ahead:
            yield self._finish(*ahead.popleft())

    def _start(self, entries: list[Entry], looks: list[Look | None]) -> Future[list[Look]]:
        new = [entry for entry, look in zip(entries, looks, strict=True) if look is None]
        self.started += bool(new)
        if new and self.started > 1 and self.workers > 1:
            if self.pool is None:
                self.pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"))
            return self.pool.submit(look_at, self.source, new, self.limits)
        done: Future[list[Look]] = Future()
        done.set_result(look_at(self.source, new, self.limits))
        return done

    def _finish(
        self, entries: list[Entry], looks: list[Look | None], future: Future[list[Look]]
    ) -> tuple[list[Entry], list[Look]]:
        try:
            new = iter(future.result())
        except BrokenExecutor:
            raise StepError(
                f"A process that read images died at one of '{entries[0].path}' to '{entries[-1].path}': "
                f"too "
                f"little memory, or a file that crashes the decoder. Lower scan.workers or scan.max_pixels, "
                f"or "
                f"take the file out."
            ) from None
        return entries, [look if look is not None else next(new) for look in looks]


class Table:
    """manifest.parquet, written row group by row group, and put into place when it is whole."""

    def __init__(self, out: Path, columns: tuple[str, ...]) -> None:
        self.path = out / "manifest.parquet"
        self.columns = columns
        self.partial = out / ".manifest.parquet.partial"
        self.rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        import pyarrow.parquet

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.schema = schema(self.columns)
        self.writer = pyarrow.parquet.ParquetWriter(self.partial, self.schema, compression="zstd")
        return self

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows with the columns of `schema`, in its order."""
        self.rows += rows
        while len(self.rows) >= _ROW_GROUP:
            self._write(_ROW_GROUP)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None and self.rows:
            self._write(len(self.rows))
        self.writer.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)

    def _write(self, count: int) -> None:
        import pyarrow as pa

        columns = zip(*self.rows[:count], strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self.schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema), row_group_size=count)
        del self.rows[:count]


def schema(columns: tuple[str, ...] = ()) -> Any:
    """Arrow's schema of manifest.parquet, see pergola.components.artifacts.data.Manifest.

    columns: further ones of a list.
    """
    import pyarrow as pa

    texts = {name: pa.string() for name in ("path", "label", "given_split", "id", "format", "mode")}
    numbers = {
        "width": pa.int32(),
        "height": pa.int32(),
        "bytes": pa.int64(),
        "orientation": pa.int8(),
        "brightness": pa.float32(),
        "contrast": pa.float32(),
        "sharpness": pa.float32(),
        "phash": pa.uint64(),
    }
    further = [(LIST_COLUMN + name, pa.string()) for name in columns]
    return pa.schema(
        list({**texts, **numbers, "thumbnail": pa.binary(), "reason": pa.string()}.items()) + further
    )


def _content(folder: Path) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(folder / "manifest.parquet") as file:
        for batch in file.iter_batches(columns=["path", "label", "given_split", "id"]):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
