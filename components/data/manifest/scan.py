"""The scan: one row per image file, read in parallel and streamed to a Parquet file."""

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
from pergola.components.artifacts.data import Finding, Manifest, SourceFindings
from pergola.components.data.manifest import parquet
from pergola.components.data.manifest.image_metadata import ImageLimits, ImageMetadata, inspect_all, version
from pergola.components.data.manifest.relabel import TAKEN_OUT, Corrections, read_relabel
from pergola.components.data.manifest.scan_cache import ScanCache, StampWriter
from pergola.components.data.sources.settings import ScanSettings as ScanSettings
from pergola.components.data.sources.source import Entry, Source
from pergola.components.disk import explained
from pergola.components.errors import InputError, StepError
from pergola.serving.wire.images import MAX_PIXELS

LIST_COLUMN = "list."  # prefix of a list's extra columns in the manifest

_CHUNK_FILES = 64
_CHUNK_BYTES = 32 << 20


def scan(
    source: Source,
    out: Path,
    settings: ScanSettings,
    *,
    previous: Path | None = None,
    progress: progress.Progress = progress.silent,
) -> Manifest:
    """The manifest of everything in `source`, written to `out`; its rows are in manifest.parquet.

    An unreadable file is a row with a reason. Memory does not grow with the number of images. Labels are the
    source's, with the corrections of `settings.relabel`.
    previous: folder of an earlier manifest. The rows of files whose size and times have not changed since are
    taken from it. The times are stored in `source.scratch`, because a manifest depends on content alone.
    Raises InputError when there are no images or fewer than two classes, and when the corrections cannot be
    read.
    """
    corrections = load_corrections(source, settings)
    totals = read_all(source, out, settings, corrections, previous=previous, progress=progress)
    return finish(source.kind, totals, out, source.findings)


@dataclass
class ManifestTotals:
    """Counts and labels over the rows of a manifest."""

    num_rows: int = 0
    num_unreadable: int = 0
    num_taken_out: int = 0
    labels: set[str] = field(default_factory=set)

    def add(self, labels: Iterable[str], reasons: Iterable[str | None]) -> None:
        """Count rows. An image without a label has an empty one."""
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
) -> ManifestTotals:
    """Write a row per image of `source` to manifest.parquet in `out`, however few they are."""
    limits = ImageLimits(min(settings.max_pixels, MAX_PIXELS), settings.max_side, settings.max_bytes)
    state = digest.of_data([settings.max_pixels, settings.max_side, settings.max_bytes, version()])
    totals = ManifestTotals()
    with (
        explained(out),
        manifest_writer(out, source.columns) as table,
        StampWriter(source.scratch, state) as stamps,
        ScanCache(source.scratch, state, previous) as cache,
        _Readers(source, limits, settings.workers) as readers,
        progress(desc="scan", unit=" images") as bar,
    ):
        for entries, images in readers.read(_chunks(source, cache)):
            stamps.add(entries, images)
            entries, images = corrections.apply(entries, images)
            pairs = zip(entries, images, strict=True)
            table.add((e.path, e.label, e.given_split, *image, *e.extra) for e, image in pairs)
            totals.add((entry.label for entry in entries), (image.reason for image in images))
            bar.update(len(entries))
    return totals


def load_corrections(source: Source, settings: ScanSettings) -> Corrections:
    """The corrections in `settings.relabel`. source: the whole data set, which defines the classes."""
    if not settings.relabel:
        return Corrections({})
    labels = {entry.label for entry in source.entries()} - {""}
    return Corrections(read_relabel(Path(settings.relabel), labels))


def finish(kind: str, totals: ManifestTotals, out: Path, findings: tuple[Finding, ...] = ()) -> Manifest:
    """The manifest of the rows in `out`. Raises InputError when a classifier cannot be trained on them.

    findings: what the source says, which is kept beside the manifest.
    """
    try:
        _check(totals.labels, totals.num_rows)
    except InputError:
        (out / "manifest.parquet").unlink(missing_ok=True)
        raise
    content = parquet.rows(out / "manifest.parquet", ["path", "label", "given_split", "id"])
    manifest = Manifest(
        kind=kind,
        num_rows=totals.num_rows,
        num_unreadable=totals.num_unreadable,
        labels=tuple(sorted(totals.labels)),
        fingerprint=digest.of_rows(content),
        num_taken_out=totals.num_taken_out,
    )
    manifest.save(out)
    if findings:
        SourceFindings(findings).save(out)
    return manifest


def _check(labels: set[str], num_rows: int) -> None:
    if not num_rows:
        raise InputError("The data set holds no images. Check its path.")
    if len(labels) < 2:
        raise InputError(
            f"The data has a single class, '{next(iter(labels), '')}': a classifier needs at least two. "
            "Put the images of each class into a folder of its own."
        )


Chunk = tuple[list[Entry], list[ImageMetadata | None]]


def _chunks(source: Source, cache: ScanCache) -> Iterator[Chunk]:
    """Entries in chunks of about equal work, each with its cached metadata, if there are any."""
    entries: list[Entry] = []
    images: list[ImageMetadata | None] = []
    work = num_bytes = 0
    for entry in source.entries():
        image = cache.find(entry)
        entries.append(entry)
        images.append(image)
        if image is None:
            work, num_bytes = work + 1, num_bytes + entry.num_bytes
        if work >= _CHUNK_FILES or num_bytes >= _CHUNK_BYTES or len(entries) >= parquet.BLOCK:
            yield entries, images
            entries, images, work, num_bytes = [], [], 0, 0
    if entries:
        yield entries, images


class _Readers:
    """Processes that read images. The first chunk is read in this one: a small folder needs no others."""

    def __init__(self, source: Source, limits: ImageLimits, workers: int) -> None:
        self.source = source
        self.limits = limits
        self.workers = workers or len(os.sched_getaffinity(0))
        self.pool: ProcessPoolExecutor | None = None
        self.started = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self.pool is not None:  # without an error nothing is pending, so the caller need not wait
            self.pool.shutdown(wait=kind is not None, cancel_futures=True)

    def read(self, chunks: Iterator[Chunk]) -> Iterator[tuple[list[Entry], list[ImageMetadata]]]:
        """Chunks in their order, with at most a few read ahead of the caller."""
        ahead: deque[tuple[Chunk, Future[list[ImageMetadata]]]] = deque()
        for chunk in chunks:
            ahead.append((chunk, self._start(*chunk)))
            if len(ahead) > 2 * self.workers:
                if self.pool is not None:
                    import pandas  # noqa: F401  # Arrow imports it anyway: do it while processes start
                yield self._finish(*ahead.popleft())
        while ahead:
            yield self._finish(*ahead.popleft())

    def _start(self, entries: list[Entry], images: list[ImageMetadata | None]) -> Future[list[ImageMetadata]]:
        new = [entry for entry, image in zip(entries, images, strict=True) if image is None]
        self.started += bool(new)
        if new and self.started > 1 and self.workers > 1:
            if self.pool is None:
                self.pool = ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"))
            return self.pool.submit(inspect_all, self.source, new, self.limits)
        done: Future[list[ImageMetadata]] = Future()
        done.set_result(inspect_all(self.source, new, self.limits))
        return done

    def _finish(
        self, chunk: Chunk, future: Future[list[ImageMetadata]]
    ) -> tuple[list[Entry], list[ImageMetadata]]:
        entries, images = chunk
        try:
            new = iter(future.result())
        except BrokenExecutor:
            raise StepError(
                f"A process that read images died at one of '{entries[0].path}' to '{entries[-1].path}': "
                "too little memory, or a file that crashes the decoder. Lower scan.workers or "
                "scan.max_pixels, or remove the file."
            ) from None
        return entries, [image if image is not None else next(new) for image in images]


def manifest_writer(out: Path, columns: tuple[str, ...]) -> parquet.RowWriter:
    """Writes manifest.parquet into `out`. columns: a list's extra ones."""
    return parquet.RowWriter(out / "manifest.parquet", schema(columns), compression="zstd")


def schema(columns: tuple[str, ...] = ()) -> Any:
    """Arrow's schema of manifest.parquet, see pergola.components.artifacts.data.Manifest.

    columns: a list's extra ones.
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
    }
    extra = [(LIST_COLUMN + name, pa.string()) for name in columns]
    return pa.schema(
        list({**texts, **numbers, "thumbnail": pa.binary(), "reason": pa.string()}.items()) + extra
    )
