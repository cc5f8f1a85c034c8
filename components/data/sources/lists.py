"""Images named in a CSV, TSV or Parquet list with the columns path, label and, optionally, split.

Extra columns go into the manifest as texts, for results by slice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import outside_text
from pergola.components.data.sources.source import SPLIT_NAMES, Entry, Stamp, check_labels, read_regular
from pergola.components.errors import InputError

SUFFIXES = (".csv", ".tsv", ".parquet")
_OWN = ("path", "label", "split")


@dataclass(frozen=True)
class ListSource:
    """A list file. Its paths are relative to its folder, or absolute."""

    location: Path
    scratch: Path
    kind: str = "list"
    columns: tuple[str, ...] = ()

    @classmethod
    def open(cls, location: Path, scratch: Path) -> ListSource:
        """Raises InputError for missing columns, empty labels, unknown splits, duplicate or missing files."""
        table = cls(location.absolute(), scratch)._table()
        source = cls(location.absolute(), scratch, columns=tuple(table.column_names[len(_OWN) :]))
        check_labels(table["label"].unique().to_pylist(), location)
        source._check_files(table)
        return source

    def entries(self) -> Iterator[Entry]:
        """Every row of the list, in order of path."""
        for path, label, split, *extra in _rows(self._table()):
            stamp = self._stamp(path)
            reason = None if stamp else self._why_not(path)
            yield Entry(
                path, label, split, stamp or (0, 0, 0), stamp[0] if stamp else 0, reason, tuple(extra)
            )

    def read(self, path: str) -> bytes:
        return read_regular(self.location.parent / path)

    def _stamp(self, path: str) -> Stamp | None:
        """None for what is not a file: it is gone, a folder, a device, a pipe."""
        try:
            info = os.stat(self.location.parent / path)
        except (OSError, ValueError):
            return None
        return (info.st_size, info.st_mtime_ns, info.st_ctime_ns) if stat.S_ISREG(info.st_mode) else None

    def _why_not(self, path: str) -> str:
        return "it is not a regular file" if self._exists(path) else "it is gone"

    def _exists(self, path: str) -> bool:
        try:
            return os.path.exists(self.location.parent / path)
        except ValueError:
            return False

    def _check_files(self, table: Any) -> None:
        missing = [path for path, *_ in _rows(table) if not self._exists(path)]
        if missing:
            raise InputError(
                f"'{self.location}' names {len(missing)} of {table.num_rows} files that do not exist, the "
                f"first '{missing[0]}': paths are relative to the folder of the list."
            )

    def _table(self) -> Any:
        """Columns path, label, split (null when the list has none) and all others, ordered by path."""
        import pyarrow as pa

        raw = _read(self.location)
        if not raw.num_rows:
            raise InputError(f"'{self.location}' has no rows: expected one per image.")
        columns = {name.strip().casefold(): i for i, name in enumerate(raw.column_names)}
        for wanted in ("path", "label"):
            if wanted not in columns:
                raise InputError(
                    f"'{self.location}' has no column '{wanted}', only {', '.join(raw.column_names)}: its "
                    f"first "
                    f"line must name path, label and, if the data is split already, split."
                )
        paths = self._paths(_from_cells(_texts(raw.column(columns["path"]))))
        labels = _from_cells(_texts(raw.column(columns["label"])))
        self._check_labels(paths, labels)
        splits = self._splits(_texts(raw.column(columns["split"])) if "split" in columns else None, paths)
        extra = {name: _texts(raw.column(i)) for name, i in columns.items() if name and name not in _OWN}
        table = pa.table({"path": paths, "label": labels, "split": splits, **extra}).sort_by("path")
        self._check_duplicates(table)
        return table

    def _paths(self, paths: Any) -> Any:
        """Relative to the list's folder, with "/" between parts."""
        import pyarrow as pa

        folder = str(self.location.parent)
        return pa.array(
            (os.path.relpath(p, folder) if os.path.isabs(p) else os.path.normpath(p) for p in _each(paths)),
            pa.string(),
        )

    def _check_labels(self, paths: Any, labels: Any) -> None:
        empty = [str(path) for path, label in zip(_each(paths), _each(labels), strict=True) if not label]
        if empty:
            raise InputError(
                f"'{self.location}' has {len(empty)} rows without a label, the first for '{empty[0]}': "
                "add the labels, or remove the rows."
            )

    def _splits(self, splits: Any, paths: Any) -> Any:
        import pyarrow as pa

        if splits is None:
            return pa.nulls(len(paths), pa.string())
        known = {**SPLIT_NAMES, "": None}
        for split in splits.unique().to_pylist():
            if split.casefold() not in known:
                raise InputError(
                    f"'{self.location}' has the split '{split}': expected train, validation, test or nothing."
                )
        return pa.array((known[split.casefold()] for split in _each(splits)), pa.string())

    def _check_duplicates(self, table: Any) -> None:
        import pyarrow.compute as pc

        path = table["path"].combine_chunks()
        duplicates = path[1:].filter(pc.equal(path[1:], path[:-1])) if len(path) > 1 else path[:0]
        if len(duplicates):
            raise InputError(
                f"'{self.location}' names {len(duplicates)} files more than once, the first "
                f"'{duplicates[0]}': keep one row per file."
            )


def _read(location: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if location.suffix.lower() == ".parquet":
            return pyarrow.parquet.read_table(location)
        delimiter = "\t" if location.suffix.lower() == ".tsv" else ","
        with open(location, "rb") as file:
            names = file.readline().decode("utf-8-sig").strip().split(delimiter)
        texts = {name.strip().strip('"'): pa.string() for name in names}
        return pyarrow.csv.read_csv(
            location,
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=texts, strings_can_be_null=False),
        )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"'{location}' cannot be read as a list: {str(error).splitlines()[0]}.") from None
    except OSError as error:
        raise InputError(f"'{location}' cannot be read: {error.strerror or error}.") from None


def _texts(column: Any) -> Any:
    """A column as trimmed texts; null becomes empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.fill_null(pc.cast(column, pa.string()), "")
    return pc.utf8_trim_whitespace(texts).combine_chunks()


def _from_cells(texts: Any) -> Any:
    """Without the apostrophes that our lists have before what a spreadsheet would compute."""
    import pyarrow as pa

    return pa.array((outside_text.from_cell(text) for text in _each(texts)), pa.string())


def _each(column: Any) -> Iterator[str]:
    """The values one by one, without a list of all of them."""
    for start in range(0, len(column), 10_000):
        yield from column[start : start + 10_000].to_pylist()


def _rows(table: Any) -> Iterator[tuple[Any, ...]]:
    for batch in table.to_batches(10_000):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
