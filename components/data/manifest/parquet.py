"""Parquet files read and written in blocks, so that memory does not grow with the number of rows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BLOCK = 8192  # rows


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file for this block, which replaces `path` if there was no error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class RowWriter:
    """Writes rows to a temporary file, which replaces `path` once all are written without an error."""

    def __init__(
        self, path: Path, schema: Any, *, row_group: int = BLOCK, compression: str = "snappy"
    ) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self.schema = schema
        self.row_group = row_group
        self.compression = compression
        self.rows: list[tuple[Any, ...]] = []

    def __enter__(self) -> Self:
        import pyarrow.parquet

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.writer = pyarrow.parquet.ParquetWriter(self.partial, self.schema, compression=self.compression)
        return self

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows with the columns of the schema, in its order."""
        self.rows += rows
        while len(self.rows) >= self.row_group:
            self._write(self.row_group)

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


def batches(file: Path, columns: list[str] | None = None, size: int = BLOCK) -> Iterator[tuple[int, Any]]:
    """Record batches, each with the number of its first row. columns: in this order; None: all."""
    import pyarrow.parquet

    start = 0
    with pyarrow.parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(size, columns=columns):
            yield start, batch if columns is None else batch.select(columns)
            start += len(batch)


def rows(file: Path, columns: list[str] | None = None) -> Iterator[tuple[Any, ...]]:
    """The rows one by one. columns: in this order; None: all."""
    for _, batch in batches(file, columns):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
