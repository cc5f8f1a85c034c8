"""relabel.csv: suspicious labels for a person to review, and the corrections that come back.

    id,path,label,suggested,quality,new_label
    9f86d08188…,maple/17.jpg,maple,oak,0.0021,

A person writes into `new_label` the right class, `(remove)` to exclude the image, or nothing to keep the
label. Rows may be deleted and sorted. Images are identified by their content (`id`), so a file that was moved
keeps its correction and one that was replaced loses it. A row whose `new_label` equals its label confirms the
label: it is not listed as suspicious again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pergola.components import outside_text, records
from pergola.components.data.manifest.image_metadata import ImageMetadata
from pergola.components.data.sources.source import Entry
from pergola.components.errors import InputError

RELABEL_FILE = "relabel.csv"
REMOVE = "(remove)"
TAKEN_OUT = "a person took it out"  # the reason in the manifest of a file removed by a correction
COLUMNS = ("id", "path", "label", "suggested", "quality", "new_label")
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Suspect:
    """An image whose label may be wrong."""

    id: str
    path: str
    label: str
    suggested: str  # the class that the model finds most likely; may equal the label
    quality: float  # out-of-fold probability of the label, 0 to 1; low is suspicious
    flagged: bool  # confident learning considers it an error


def write_relabel(suspects: Iterable[Suspect], path: Path) -> int:
    """Write the list in its order, with an empty `new_label`. Returns the number of rows.

    Raises InputError when the file exists, because it may hold corrections.
    """
    refuse_to_replace(path)
    sink = io.StringIO()
    writer = csv.writer(sink)  # line ends as in RFC 4180; with "\n" alone a "\r" would not be quoted
    writer.writerow(COLUMNS)
    rows = [(s.id, s.path, s.label, s.suggested, f"{s.quality:.4f}", "") for s in suspects]
    writer.writerows([outside_text.cell(value) for value in row] for row in rows)
    records.write_atomic(path, sink.getvalue())
    return len(rows)


def refuse_to_replace(path: Path) -> None:
    """Raises InputError when the file exists, because it may hold corrections."""
    if path.exists():
        raise InputError(
            f"{path} already exists and may hold corrections: move it away or name another file."
        )


def read_relabel(path: Path, labels: Collection[str]) -> dict[str, str | None]:
    """Corrections: id -> new label, None to exclude the image. Rows without a correction are ignored.

    labels: the existing classes. Any other name is refused, with the nearest class as a suggestion, because
        it is more likely a typing error than a new class.
    Commas, semicolons, tabs and a byte order mark are accepted, as spreadsheets write them.
    Raises InputError for a file that cannot be read, a missing column, an unknown class, or an image with two
    different corrections.
    """
    found: dict[str, str | None] = {}
    for number, row in _rows(path):
        id = (row.get("id") or "").strip()
        name = outside_text.from_cell((row.get("new_label") or "").strip())
        if not name:
            continue
        if not id:
            raise InputError(f"{path}, line {number}: '{name}' belongs to no image: the id is empty.")
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
    """Applies corrections to scanned files. corrections: from `read_relabel`; empty: nothing changes."""

    def __init__(self, corrections: Mapping[str, str | None]) -> None:
        self.corrections = corrections

    def apply(
        self, entries: list[Entry], images: list[ImageMetadata]
    ) -> tuple[list[Entry], list[ImageMetadata]]:
        """Entries with corrected labels; the metadata of excluded images say so as their reason.

        A correction applies to all files with that content.
        """
        if not self.corrections:
            return entries, images
        pairs = [self._corrected(entry, image) for entry, image in zip(entries, images, strict=True)]
        return [entry for entry, _ in pairs], [image for _, image in pairs]

    def _corrected(self, entry: Entry, image: ImageMetadata) -> tuple[Entry, ImageMetadata]:
        label = self.corrections.get(image.id, entry.label)
        if label is None:
            return entry, image._replace(reason=image.reason or TAKEN_OUT)
        return (entry if label == entry.label else replace(entry, label=label)), image


def _rows(path: Path) -> Iterable[tuple[int, Mapping[str, str | None]]]:
    text = _text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [name for name in ("id", "new_label") if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path} has no column '{missing[0]}'. Expected {', '.join(COLUMNS)}.")
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
