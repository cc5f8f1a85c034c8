"""Parquet files that hold the images themselves, as data sets of Hugging Face do, written as files once."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pergola.components import outside_text
from pergola.components.artifacts.data import INFO, Finding
from pergola.components.data.sources.archive_target import Target
from pergola.components.data.sources.archives import staged
from pergola.components.data.sources.folders import tree
from pergola.components.data.sources.lists import table
from pergola.components.data.sources.lists.columns import (
    LABEL_NAMES,
    PATH_NAMES,
    MissingColumnError,
    plain_name,
)
from pergola.components.data.sources.lists.source import ListSource
from pergola.components.data.sources.settings import ScanSettings
from pergola.components.data.sources.split_names import SPLIT_NAMES, split_in
from pergola.components.errors import InputError

_BATCH = 256  # images in memory
_LIST = "labels.csv"


def image_column(location: Path) -> str | None:
    """The column of a Parquet file with images as bytes, or as Hugging Face's struct; None without any."""
    import pyarrow.types as types

    schema = table.parquet_schema(location)
    if any(types.is_string(field.type) and plain_name(field.name) in PATH_NAMES for field in schema):
        return None
    for field in schema:
        is_struct = types.is_struct(field.type) and "bytes" in {inner.name for inner in field.type}
        if is_struct or table.is_bytes(field.type):
            return str(field.name)
    return None


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files with images at any depth."""
    found = [folder / path for path, _ in tree.files_below(str(folder)) if path.lower().endswith(".parquet")]
    return [file for file in found if file.is_file() and image_column(file)]


def open_embedded(files: Sequence[Path], scratch: Path, settings: ScanSettings) -> ListSource:
    """The images in Parquet files, each file being a split where their names say so.

    Raises InputError for a file without a column of labels, and for more bytes than the settings allow.
    """
    splits = [SPLIT_NAMES.get(split_in(file.stem)[0] or "", "") for file in files]
    splits = splits if len(set(splits)) > 1 else [""] * len(files)
    fill = functools.partial(_fill, list(zip(files, splits, strict=True)), settings)
    folder = staged(scratch, list(files), fill, settings.label_column)
    plain = replace(settings, path_column="", label_column="")
    source = ListSource.open([(folder / _LIST, None)], folder, scratch, plain)
    names = ", ".join(f"'{file.name}'" for file in files[:3])
    message = f"The images lie in {names} themselves and were unpacked, with their labels."
    return replace(
        source, findings=(Finding("list_columns", INFO, len(files), (), message), *source.findings)
    )


def _fill(files: list[tuple[Path, str]], settings: ScanSettings, folder: Path) -> None:
    with open(folder / _LIST, "w", encoding="utf-8", newline="") as listing:
        writer = csv.writer(listing)
        for number, (file, split) in enumerate(files):
            image = image_column(file) or ""
            schema = table.parquet_schema(file)
            label = _label_column(file, schema.names, settings.label_column)
            names = _class_names(schema, label)
            target = Target.of(file, folder, settings.max_archive_bytes, settings.max_archive_files)
            if not number:
                writer.writerow(["path", "label", "split"])
            for place, (content, value) in enumerate(_rows(file, image, label)):
                path = f"{file.stem}-{number}/{place:08}"
                target.write(target.place(path), io.BytesIO(content))
                text = names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value
                writer.writerow(
                    [outside_text.cell(t) for t in (path, "" if text is None else str(text), split)]
                )


def _rows(file: Path, image: str, label: str) -> Iterator[tuple[bytes, Any]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(_BATCH, columns=[image, label]):
            contents, labels = (batch.column(name).to_pylist() for name in (image, label))
            for content, value in zip(contents, labels, strict=True):
                yield (content["bytes"] if isinstance(content, dict) else content) or b"", value


def _label_column(file: Path, names: list[str], asked: str) -> str:
    wanted = [asked] if asked else LABEL_NAMES
    found = [name for want in wanted for name in names if plain_name(name) == plain_name(want)]
    if not found:
        raise MissingColumnError(
            f"'{file}' has no column 'label', only {', '.join(names)}: name it with "
            "--set scan.label_column=NAME."
        )
    if len(found) > 1 and found[0] != "label":
        raise InputError(
            f"'{file}' has {len(found)} columns that may be meant, {' and '.join(map(repr, found))}: name "
            "one with --set scan.label_column=NAME."
        )
    return found[0]


def _class_names(schema: Any, label: str) -> list[str]:
    """The names of the classes by number, from the metadata of Hugging Face; empty without them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []
