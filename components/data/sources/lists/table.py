"""A list file as a table of texts, exactly as they are written; only blanks around them are removed."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.data.sources.lists import exports
from pergola.components.errors import InputError
from pergola.components.formatting import count as counted

SUFFIXES = (".csv", ".tsv", ".parquet", ".json", ".jsonl", ".ndjson")
_DELIMITERS = ",;\t|"
_BLOCK = 10_000
_MAX_JSON_BYTES = 1_000_000_000  # it is read as a whole


class NotAListError(InputError):
    """A file that cannot be read as a list."""


@dataclass(frozen=True)
class TextTable:
    """Columns of texts (pyarrow), whose names may repeat, and what is to be said about the file."""

    table: Any
    findings: tuple[Finding, ...] = ()


def read(location: Path) -> TextTable:
    """The list at `location`. Raises InputError for a file that is none, and for exports not read."""
    import pyarrow as pa

    suffix = location.suffix.lower()
    try:
        if suffix == ".parquet":
            return _parquet(location)
        return _csv(location) if suffix in (".csv", ".tsv") else _json(location, suffix != ".json")
    except (pa.ArrowException, UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise NotAListError(f"'{location}' cannot be read as a list: {str(error).splitlines()[0]}.") from None
    except OSError as error:
        raise InputError(f"'{location}' cannot be read: {error.strerror or error}.") from None


def each(column: Any) -> Iterator[str]:
    """The values one by one, without a list of all of them."""
    for start in range(0, len(column), _BLOCK):
        yield from column[start : start + _BLOCK].to_pylist()


def parquet_schema(location: Path) -> Any:
    """The columns of a Parquet file. Raises NotAListError for a file that is none."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(location)
    except (pa.ArrowException, OSError) as error:
        raise NotAListError(
            f"'{location}' cannot be read as Parquet: {str(error).splitlines()[0]}."
        ) from None


def is_bytes(kind: Any) -> bool:
    """Whether an Arrow type holds bytes."""
    import pyarrow.types as types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _csv(location: Path) -> TextTable:
    import pyarrow as pa
    import pyarrow.csv

    encoding = _encoding(location)
    with open(location, encoding=encoding, newline="") as file:
        head = file.readline()
        has_rows = bool(file.readline().strip())
    if not head.strip():
        raise NotAListError(f"'{location}' cannot be read as a list: it is empty.")
    delimiter = "\t" if location.suffix.lower() == ".tsv" else max(_DELIMITERS, key=head.count)
    names = next(csv.reader([head], delimiter=delimiter, skipinitialspace=True))
    places = [str(place) for place in range(len(names))]
    if not has_rows:
        return TextTable(_named([pa.array([], pa.string()) for _ in names], names))
    table = pyarrow.csv.read_csv(
        location,
        read_options=pyarrow.csv.ReadOptions(column_names=places, skip_rows=1, encoding=encoding),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(places, pa.string()), strings_can_be_null=False
        ),
    )
    findings: tuple[Finding, ...] = ()
    if encoding == "cp1252":
        message = (
            f"'{location.name}' is not UTF-8 and was read as Windows-1252: check the names of the classes."
        )
        findings = (Finding("list_encoding", WARNING, 1, (), message),)
    return TextTable(_named([_trimmed(column) for column in table.columns], names), findings)


def _encoding(location: Path) -> str:
    """UTF-8, UTF-16 by its byte order mark, or else Windows-1252."""
    with open(location, "rb") as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            decoder.decode(start)
            while block := file.read(1 << 20):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"


def _parquet(location: Path) -> TextTable:
    import pyarrow.parquet
    import pyarrow.types as types

    schema = pyarrow.parquet.read_schema(location)
    usable = [field.name for field in schema if not types.is_nested(field.type) and not is_bytes(field.type)]
    table = pyarrow.parquet.read_table(location, columns=usable)
    texts = _named([_trimmed(column) for column in table.columns], usable)
    return TextTable(texts, _unusable(location, [name for name in schema.names if name not in usable]))


def _json(location: Path, by_line: bool) -> TextTable:
    """Objects, one a line or in one array; or one object: of paths and labels, or an export of a tool."""
    if location.stat().st_size > _MAX_JSON_BYTES:
        raise NotAListError(
            f"'{location}' has more than {_MAX_JSON_BYTES:,} bytes: write it as .csv or .parquet."
        )
    text = location.read_text(encoding="utf-8-sig")
    data = [json.loads(line) for line in text.splitlines() if line.strip()] if by_line else json.loads(text)
    exports.refuse(location, data)
    if exports.is_coco(data):
        paths, labels, findings = exports.coco(location, data)
        return TextTable(_of_rows(zip(paths, labels, strict=True), ("path", "label")), findings)
    if isinstance(data, dict) and data and all(_is_plain(value) for value in data.values()):
        return TextTable(_of_rows(data.items(), ("path", "label")))
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise NotAListError(
            f"'{location}' cannot be read as a list: expected objects with the keys path and label, or COCO."
        )
    names = list(dict.fromkeys(name for row in data for name in row))
    usable = [name for name in names if all(_is_plain(row.get(name)) for row in data)]
    rows = ([row.get(name) for name in usable] for row in data)
    return TextTable(_of_rows(rows, usable), _unusable(location, [n for n in names if n not in usable]))


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _of_rows(rows: Iterable[Iterable[Any]], names: Iterable[str]) -> Any:
    import pyarrow as pa

    names = list(names)
    columns: list[list[str]] = [[] for _ in names]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append("" if value is None else str(value))
    return _named([_trimmed(pa.array(column, pa.string())) for column in columns], names)


def _named(columns: list[Any], names: Iterable[str]) -> Any:
    import pyarrow as pa

    return pa.Table.from_arrays(columns, names=[name.strip() for name in names])


def _unusable(location: Path, names: list[str]) -> tuple[Finding, ...]:
    if not names:
        return ()
    shown = ", ".join(f"'{name}'" for name in names[:3])
    message = (
        f"'{location.name}' has {counted(len(names), 'column')} without single values, such as {shown}: left "
        "out."
    )
    return (Finding("list_columns", INFO, len(names), (), message),)


def _trimmed(column: Any) -> Any:
    """A column as trimmed texts; null becomes empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(pc.fill_null(pc.cast(column, pa.string()), ""))
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
