"""Results of an earlier scan, reused for files that have not changed since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pergola.components.data.manifest.image_metadata import ImageMetadata
from pergola.components.data.manifest.parquet import RowWriter, rows
from pergola.components.data.sources.source import Entry, Stamp

_FILE = "stamps.parquet"
_STATE = b"pergola.state"
_ROW_GROUP = 65_536
StampRow = tuple[str, Stamp, str]  # path, stamp, id


class StampWriter:
    """Stores the size and times of every file that was read, in the scratch folder."""

    def __init__(self, scratch: Path, state: str) -> None:
        self.writer = RowWriter(scratch / _FILE, _schema(state), row_group=_ROW_GROUP)

    def __enter__(self) -> Self:
        self.writer.__enter__()
        return self

    def add(self, entries: Iterable[Entry], metadata: Iterable[ImageMetadata]) -> None:
        """Add files that were read. One that could not even be opened is tried again in the next scan."""
        pairs = zip(entries, metadata, strict=True)
        self.writer.add((entry.path, *entry.stamp, image.id) for entry, image in pairs if image.id)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.writer.__exit__(kind, error, trace)


class ScanCache:
    """Image metadata from an earlier manifest, looked up in order of path.

    Manifest, stamps and look-ups are all in order of path, so one pass over the files is enough and memory
    does not grow with them.
    state: a digest of everything else that the metadata depend on; the cache is empty when it differs.
    """

    def __init__(self, scratch: Path, state: str, previous: Path | None) -> None:
        self.stamps: Iterator[StampRow] = iter(())
        self.images: Iterator[tuple[str, ImageMetadata]] = iter(())
        if previous is not None and (previous / "manifest.parquet").is_file():
            self.stamps = _stamps(scratch / _FILE, state)
            self.images = _images(previous / "manifest.parquet")
        self.stamp = next(self.stamps, None)
        self.image = next(self.images, None) if self.stamp else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for iterator in (self.stamps, self.images):
            if hasattr(iterator, "close"):
                iterator.close()

    def find(self, entry: Entry) -> ImageMetadata | None:
        """The metadata of a file whose size and times have not changed; None when it must be read."""
        while self.stamp and self.stamp[0] < entry.path:
            self.stamp = next(self.stamps, None)
        while self.image and self.image[0] < entry.path:
            self.image = next(self.images, None)
        if not self.stamp or not self.image or not self.stamp[0] == self.image[0] == entry.path:
            return None
        same = entry.reason is None and self.stamp[1] == entry.stamp and self.stamp[2] == self.image[1].id
        return self.image[1] if same else None


def _schema(state: str) -> Any:
    import pyarrow as pa

    columns = {"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "ctime_ns": pa.int64()}
    return pa.schema([*columns.items(), ("id", pa.string())], metadata={_STATE: state.encode()})


def _stamps(file: Path, state: str) -> Iterator[StampRow]:
    for path, size, mtime, ctime, id in _rows(file, ["path", "size", "mtime_ns", "ctime_ns", "id"], state):
        yield path, (size, mtime, ctime), id


def _images(file: Path) -> Iterator[tuple[str, ImageMetadata]]:
    for path, *values in _rows(file, ["path", *ImageMetadata._fields], None):
        yield path, ImageMetadata(*values)


def _rows(file: Path, columns: list[str], state: str | None) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_schema(file).metadata or {}
        if state is None or metadata.get(_STATE) == state.encode():
            yield from rows(file, columns)
    except (OSError, KeyError, pa.ArrowException):
        return  # A damaged cache is an empty one: everything is read again.
