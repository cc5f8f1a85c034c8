"""What an earlier scan found, for files that did not change since."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pergola.components.data.manifest.image_metadata import Look
from pergola.components.data.sources.source import Entry, Stamp

_FILE = "stamps.parquet"
_STATE = b"pergola.state"
_ROW_GROUP = 65_536
Row = tuple[str, Stamp, str]  # path, stamp, id


class Stamps:
    """Size and times of every file that was read, kept in scratch; in place once the scan is done."""

    def __init__(self, scratch: Path, state: str) -> None:
        self.path = scratch / _FILE
        self.partial = scratch / f".{_FILE}.partial"
        self.state = state
        self.rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        import pyarrow.parquet

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pyarrow.parquet.ParquetWriter(self.partial, _schema(self.state))
        return self

    def add(self, entries: list[Entry], looks: list[Look]) -> None:
        """Remember what was read; a file that could not even be opened is tried again next time."""
        pairs = zip(entries, looks, strict=True)
        self.rows += [(e.path, *e.stamp, look.id) for e, look in pairs if look.id]
        if len(self.rows) >= _ROW_GROUP:
            self._write()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None and self.rows:
            self._write()
        self.writer.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)

    def _write(self) -> None:
        import pyarrow as pa

        schema = _schema(self.state)
        columns = zip(*self.rows, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        self.rows.clear()


class Known:
    """Looks from an earlier manifest, found in one walk beside the entries: both are in order of path.

    state: what else a look depends on; nothing is known when it was another one.
    """

    def __init__(self, scratch: Path, state: str, previous: Path | None) -> None:
        self.stamps: Iterator[Row] = iter(())
        self.looks: Iterator[tuple[str, Look]] = iter(())
        if previous is not None and (previous / "manifest.parquet").is_file():
            self.stamps = _stamps(scratch / _FILE, state)
            self.looks = _looks(previous / "manifest.parquet")
        self.stamp = next(self.stamps, None)
        self.look = next(self.looks, None) if self.stamp else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for rows in (self.stamps, self.looks):
            if hasattr(rows, "close"):
                rows.close()

    def find(self, entry: Entry) -> Look | None:
        """What is known of a file, if its size and times are still those of then."""
        while self.stamp and self.stamp[0] < entry.path:
            self.stamp = next(self.stamps, None)
        while self.look and self.look[0] < entry.path:
            self.look = next(self.looks, None)
        if not self.stamp or not self.look or not self.stamp[0] == self.look[0] == entry.path:
            return None
        same = entry.reason is None and self.stamp[1] == entry.stamp and self.stamp[2] == self.look[1].id
        return self.look[1] if same else None


def _schema(state: str) -> Any:
    import pyarrow as pa

    columns = {"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "ctime_ns": pa.int64()}
    return pa.schema([*columns.items(), ("id", pa.string())], metadata={_STATE: state.encode()})


def _stamps(file: Path, state: str) -> Iterator[Row]:
    for path, size, mtime, ctime, id in _rows(file, ["path", "size", "mtime_ns", "ctime_ns", "id"], state):
        yield path, (size, mtime, ctime), id


def _looks(file: Path) -> Iterator[tuple[str, Look]]:
    for path, *values in _rows(file, ["path", *Look._fields], None):
        yield path, Look(*values)


def _rows(file: Path, columns: list[str], state: str | None) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            metadata = table.schema_arrow.metadata or {}
            if state is not None and metadata.get(_STATE) != state.encode():
                return
            for batch in table.iter_batches(batch_size=8192, columns=columns):
                yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)
    except (OSError, KeyError, pa.ArrowException):
        return  # A damaged memory is none: everything is read again.
