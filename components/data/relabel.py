"""relabel.csv: suspicious labels that a person goes through, and what becomes of them.

    id,path,label,suggested,quality,new_label
    9f86d08188…,maple/17.jpg,maple,oak,0.0021,

A person writes into `new_label` the right class, `(remove)` to leave the picture out, or nothing to let the
label be. Rows may be deleted and sorted as one likes. A picture is known by its content (`id`), so a file
that was moved keeps its correction and one that was replaced loses it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components import records
from components.data.label_errors import Suspect
from components.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

REMOVE = "(remove)"
COLUMNS = ("id", "path", "label", "suggested", "quality", "new_label")
MAX_BYTES = 256 * 1024 * 1024


def write_relabel(suspects: Iterable[Suspect], path: Path) -> int:
    """Write the list, worst first, with an empty `new_label`. Gives the number of rows.

    Raises InputError when the file is there: it may hold somebody's work.
    """
    if path.exists():
        raise InputError(
            f"{path} is there already and may hold corrections: move it away or name another file."
        )
    sink = io.StringIO()
    writer = csv.writer(sink)  # lines end as RFC 4180 has it; with "\n" alone a "\r" would not be quoted
    writer.writerow(COLUMNS)
    rows = [(s.id, s.path, s.label, s.suggested, f"{s.quality:.4f}", "") for s in suspects]
    writer.writerows(rows)
    records.write_atomic(path, sink.getvalue())
    return len(rows)


def read_relabel(path: Path, labels: Collection[str]) -> dict[str, str | None]:
    """Corrections: id -> new label, None to leave the picture out. Rows without a correction are not in it.

    labels: the classes that there are; another name is refused with the nearest one, since it is likelier a
        slip than a new class.
    Commas, semicolons and tabs are understood, and a byte order mark, as spreadsheets write them.
    Raises InputError for a file that cannot be read, a missing column, an unknown class, or one picture
    with two corrections.
    """
    found: dict[str, str | None] = {}
    for number, row in _rows(path):
        id, name = (row.get("id") or "").strip(), (row.get("new_label") or "").strip()
        if not name:
            continue
        if not id:
            raise InputError(f"{path}, line {number}: '{name}' belongs to no picture, the id is empty.")
        if name != REMOVE and name not in labels:
            raise InputError(
                f"{path}, line {number}: '{name}' is not a class of this data set."
                f"{records.nearest(name, [*labels, REMOVE])}"
            )
        new = None if name == REMOVE else name
        if found.get(id, new) != new:
            raise InputError(f"{path}, line {number}: picture {id[:12]}… has two corrections. Keep one.")
        found[id] = new
    return found


def apply_relabel(rows: pd.DataFrame, corrections: Mapping[str, str | None]) -> pd.DataFrame:
    """The manifest's rows with corrected labels, and without those to be removed. `rows` stays as it is.

    rows: columns `id` and `label` at least. All files of equal content are corrected alike.
    """
    stays = [corrections.get(id, "") is not None for id in rows["id"]]
    kept = rows.loc[np.array(stays, np.bool_)]
    labels = [corrections.get(id) or label for id, label in zip(kept["id"], kept["label"], strict=True)]
    return kept.assign(label=labels)


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, str | None]]]:
    text = _text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [name for name in ("id", "new_label") if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path} has no column '{missing[0]}'. Wanted {', '.join(COLUMNS)}.")
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} cannot be read as CSV: {error}.") from None


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES} bytes: it cannot be a list of corrections.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text: save it as 'CSV UTF-8'.") from None
