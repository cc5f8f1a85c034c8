"""Label lists: CSV files with an image and its true label per row.

    image,label                           id,label
    photos/7.jpg,maple                    9f86d08188…,maple

An image is given by the file that was sent, or by its id, the SHA-256 of the bytes that the server received,
which `pergola predict --json` and `pergola feedback --ask` print. The client may rewrite a file before
sending it (serving/wire/images.py); both forms match. Rows without a label are skipped.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pergola.components import outside_text, records
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.feedback import image_id
from pergola.serving.wire.images import prepare

IDS, FILES = ("id", "sha256"), ("image", "path", "file")
LABEL = "label"
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Labelled:
    """One row: an image with one or two ids, of the file and of what the client sends."""

    line: int
    name: str  # as in the list
    ids: tuple[str, ...]
    label: str


def read_labels(path: Path, known: Collection[str] | None = None) -> list[Labelled]:
    """The labelled rows of a list.

    known: the allowed classes.  Commas, semicolons, tabs and a byte order mark are accepted, as spreadsheets
    write them.
    Raises InputError for a list that cannot be read, a missing column, an unknown class, a file that is
    missing, an image with two labels, or a list without labels.
    """
    found: list[Labelled] = []
    labels: dict[str, Labelled] = {}
    for line, row in _rows(path):
        label = outside_text.from_cell((row.get(LABEL) or "").strip())
        if not label:
            continue
        if known is not None and label not in known:
            raise InputError(
                f"{path}, line {line}: '{label}' is not a class of this model.{records.nearest(label, known)}"
                " For a new class use --new-class."
            )
        name, ids = _image(path, line, row)
        one = Labelled(line, name, ids, label)
        for id in ids:
            other = labels.setdefault(id, one)
            if other.label != label:
                raise InputError(
                    f"{path}: {name} is '{other.label}' in line {other.line} and '{label}' in line {line}. "
                    "Keep one of them. Nothing was imported."
                )
        found.append(one)
    if not found:
        raise InputError(f"{path} has no row with a label. Fill in the column '{LABEL}'.")
    return found


def write_list(columns: Sequence[str], rows: Iterable[Mapping[str, object]], path: Path) -> None:
    """Write a list with these columns atomically."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns)
    writer.writeheader()
    writer.writerows({name: outside_text.cell(value) for name, value in row.items()} for row in rows)
    records.write_atomic(path, sink.getvalue())


def _image(path: Path, line: int, row: Mapping[str, str | None]) -> tuple[str, tuple[str, ...]]:
    id = next((value.strip().lower() for name in IDS if (value := row.get(name)) and value.strip()), "")
    if id:
        if not _ID.fullmatch(id):
            raise InputError(f"{path}, line {line}: '{id}' is not an id. Expected a SHA-256, 64 hex digits.")
        return id, (id,)
    name = next((value.strip() for key in FILES if (value := row.get(key)) and value.strip()), "")
    if not name:
        raise InputError(f"{path}, line {line}: the label has no image. Fill in id or image.")
    name = outside_text.from_cell(name)
    file = path.parent / name
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}, line {line}: '{name}' cannot be read ({error.strerror}). Paths are relative "
            "to the list. Use the id if the file no longer exists."
        ) from None
    return name, tuple(dict.fromkeys((image_id(data), _sent(data))))


def _sent(data: bytes) -> str:
    """The id of a file as the client sends it."""
    try:
        return image_id(prepare(data))
    except ValueError:
        return image_id(data)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str | None]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text. Save it as 'CSV UTF-8'.") from None
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = reader.fieldnames or ()
    if LABEL not in columns or not set(columns) & {*IDS, *FILES}:
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'of an empty file'}: its first line must name "
            f"'{LABEL}' and one of {', '.join((*FILES, *IDS))}."
        )
    try:
        yield from ((reader.line_num, row) for row in reader)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} cannot be read as CSV: {error}.") from None
