"""relabel.csv: suspicious labels that a person goes through, and what becomes of them.

    id,path,label,suggested,quality,new_label
    9f86d08188…,maple/17.jpg,maple,oak,0.0021,

A person writes into `new_label` the right class, `(remove)` to leave the image out, or nothing to let the
label be. Rows may be deleted and sorted as one likes. An image is known by its content (`id`), so a file
that was moved keeps its correction and one that was replaced loses it. A row whose `new_label` is its label
says that a person looked and the label is right: it is not suspected again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pergola.components import records
from pergola.components.data.manifest.image_metadata import Look
from pergola.components.data.sources.source import Entry
from pergola.components.errors import InputError

RELABEL_FILE = "relabel.csv"
REMOVE = "(remove)"
TAKEN_OUT = "a person took it out"  # the reason of such a file in the manifest
COLUMNS = ("id", "path", "label", "suggested", "quality", "new_label")
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong."""

    id: str
    path: str
    label: str
    suggested: str  # the class that the model finds likeliest; may be the label itself
    quality: float  # out-of-fold probability of the given label, 0 to 1; low is suspicious
    flagged: bool  # confident learning calls it an error


def write_relabel(suspects: Iterable[Suspect], path: Path) -> int:
    """Write the list, worst first, with an empty `new_label`. Gives the number of rows.

    Raises InputError when the file is there: it may hold somebody's work.
    """
    refuse_to_replace(path)
    sink = io.StringIO()
    writer = csv.writer(sink)  # lines end as RFC 4180 has it; with "\n" alone a "\r" would not be quoted
    writer.writerow(COLUMNS)
    rows = [(s.id, s.path, s.label, s.suggested, f"{s.quality:.4f}", "") for s in suspects]
    writer.writerows(rows)
    records.write_atomic(path, sink.getvalue())
    return len(rows)


def refuse_to_replace(path: Path) -> None:
    """Raises InputError when the file is there: it may hold somebody's work."""
    if path.exists():
        raise InputError(
            f"{path} is there already and may hold corrections: move it away or name another file."
        )


def read_relabel(path: Path, labels: Collection[str]) -> dict[str, str | None]:
    """Corrections: id -> new label, None to leave the image out. Rows without a correction are not in it.

    labels: the classes that there are; another name is refused with the nearest one, since it is likelier a
        slip than a new class.
    Commas, semicolons and tabs are understood, and a byte order mark, as spreadsheets write them.
    Raises InputError for a file that cannot be read, a missing column, an unknown class, or one image
    with two corrections.
    """
    found: dict[str, str | None] = {}
    for number, row in _rows(path):
        id, name = (row.get("id") or "").strip(), (row.get("new_label") or "").strip()
        if not name:
            continue
        if not id:
            raise InputError(f"{path}, line {number}: '{name}' belongs to no image, the id is empty.")
        if name != REMOVE and name not in labels:
            raise InputError(
                f"{path}, line {number}: '{name}' is not a class of this data set."
                f"{records.nearest(name, [*labels, REMOVE])}"
            )
        new = None if name == REMOVE else name
        if found.get(id, new) != new:
            raise InputError(f"{path}, line {number}: image {id[:12]}… has two corrections. Keep one.")
        found[id] = new
    return found


class Corrections:
    """Corrections at work. corrections: as `read_relabel` gives them; empty: nothing is changed."""

    def __init__(self, corrections: Mapping[str, str | None]) -> None:
        self.corrections = corrections

    def apply(self, entries: list[Entry], looks: list[Look]) -> tuple[list[Entry], list[Look]]:
        """Entries with the right labels; those to be taken out have a look with that as its reason.

        All files of equal content are treated alike.
        """
        if not self.corrections:
            return entries, looks
        pairs = [self._one(entry, look) for entry, look in zip(entries, looks, strict=True)]
        return [entry for entry, _ in pairs], [look for _, look in pairs]

    def _one(self, entry: Entry, look: Look) -> tuple[Entry, Look]:
        label = self.corrections.get(look.id, entry.label)
        if label is None:
            return entry, look._replace(reason=look.reason or TAKEN_OUT)
        return (entry if label == entry.label else replace(entry, label=label)), look


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
