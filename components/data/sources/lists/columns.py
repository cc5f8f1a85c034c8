"""Which columns of a list name the file, its class and its split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import INFO, Finding
from pergola.components.errors import InputError
from pergola.components.formatting import count as counted
from pergola.components.records import nearest

# The usual names, the best first.
PATH_NAMES = (
    "path", "file_path", "filepath", "image_path", "img_path", "filename", "file_name", "file", "image",
    "img", "image_name", "image_file", "image_id", "img_id", "id",
)  # fmt: skip
LABEL_NAMES = ("label", "class", "class_name", "target", "category", "labels", "choice")
_SPLIT = "split"
_ON, _OFF = ("1", "1.0", "true", "True"), ("0", "0.0", "false", "False")


class MissingColumnError(InputError):
    """A list without a column for the file or for its class."""


@dataclass(frozen=True)
class Columns:
    """Places of the columns. one_hot: of a list with a column of 0 and 1 for each class, else empty."""

    path: int
    label: int | None
    split: int | None
    one_hot: tuple[int, ...]
    extra: tuple[int, ...]
    findings: tuple[Finding, ...] = ()


def choose(location: Path, table: Any, path_column: str = "", label_column: str = "") -> Columns:
    """The columns of a list, by the names that were asked for or by the usual ones.

    table: of texts (pyarrow).  Raises InputError for a column that is missing or that stands there twice.
    """
    names = table.column_names
    path = _named(location, names, path_column, "scan.path_column", PATH_NAMES)
    if path is None:
        raise MissingColumnError(_missing(location, names, "path", "the file"))
    label = _named(location, names, label_column, "scan.label_column", LABEL_NAMES)
    split = next((place for place, name in enumerate(names) if plain_name(name) == _SPLIT), None)
    rest = [place for place in range(len(names)) if place not in (path, label, split) and names[place]]
    one_hot = tuple(place for place in rest if _is_binary(table.column(place))) if label is None else ()
    if label is None and len(one_hot) < 2:
        raise MissingColumnError(_missing(location, names, "label", "the class"))
    extra = tuple(place for place in rest if place not in one_hot)
    _refuse_repeated(location, [names[place] for place in extra])
    findings = _reported(location, names, path, label, one_hot)
    return Columns(path, label, split, one_hot, extra, findings)


def one_hot_labels(location: Path, table: Any, columns: Columns) -> list[str]:
    """The class of each row: the name of the column that is 1; empty where none is.

    Raises InputError for a row with several.
    """
    names = [table.column_names[place] for place in columns.one_hot]
    rows = zip(*(table.column(place).to_pylist() for place in columns.one_hot), strict=True)
    found = [[name for name, value in zip(names, row, strict=True) if value in _ON] for row in rows]
    several = [place for place, labels in enumerate(found) if len(labels) > 1]
    if several:
        first = several[0]
        path = table.column(columns.path)[first].as_py()
        refuse_several_labels(location, len(several), path, found[first])
    return [labels[0] if labels else "" for labels in found]


def refuse_several_labels(location: Path, count: int, example: str, labels: list[str]) -> None:
    """Raises InputError for a list in which images have several classes."""
    raise InputError(
        f"'{location}' is a multi-label list: it has {counted(count, 'image')} with several classes, "
        f"such as '{example}' ({', '.join(labels[:5])}). A classifier needs exactly one: keep one per image."
    )


def plain_name(name: str) -> str:
    """A column's name without what people write differently: case, blanks, hyphens."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def _named(location: Path, names: list[str], asked: str, setting: str, usual: tuple[str, ...]) -> int | None:
    """The place of the column asked for, or of the best of the usual ones."""
    plain = [plain_name(name) for name in names]
    if asked and plain_name(asked) not in plain:
        raise MissingColumnError(f"{setting}: '{location}' has no column '{asked}'.{nearest(asked, names)}")
    best = plain_name(asked) if asked else next((name for name in usual if name in plain), None)
    if best is None:
        return None
    exact = [place for place, name in enumerate(names) if asked and name == asked]
    places = exact or [place for place, name in enumerate(plain) if name == best]
    rivals = [names[place] for place in places]
    if not asked and best not in ("label", *PATH_NAMES):  # no usual class name is better than another
        places = [place for place, name in enumerate(plain) if name in usual]
        rivals = [names[place] for place in places]
    if len(places) > 1:
        raise InputError(
            f"'{location}' has {len(places)} columns that may be meant, {' and '.join(map(repr, rivals))}: "
            f"rename all but one, or name it with --set {setting}=NAME."
        )
    return places[0]


def _missing(location: Path, names: list[str], wanted: str, what: str) -> str:
    return (
        f"'{location}' has no column '{wanted}', only {', '.join(names)}: its first line must name path, "
        f"label and, if the data is split already, split. Or name the column of {what} with "
        f"--set scan.{wanted}_column=NAME."
    )


def _refuse_repeated(location: Path, names: list[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise InputError(f"'{location}' has two columns '{other}' and '{name}': rename one.")


def _is_binary(column: Any) -> bool:
    return set(column.unique().to_pylist()) <= {*_ON, *_OFF}


def _reported(
    location: Path, names: list[str], path: int, label: int | None, one_hot: tuple[int, ...]
) -> tuple[Finding, ...]:
    """A finding where the columns were guessed, or where another one could be the label."""
    labels = "one column for each class" if label is None else f"'{names[label]}'"
    others = [name for place, name in enumerate(names) if place not in (path, label, *one_hot)]
    rivals = [name for name in others if plain_name(name) in LABEL_NAMES]
    is_plain = label is not None and (plain_name(names[path]), plain_name(names[label])) == ("path", "label")
    if is_plain and not rivals:
        return ()
    message = (
        f"'{location.name}' names the file in '{names[path]}' and the class in {labels}; scan.path_column "
        "and scan.label_column choose others."
    )
    if rivals:
        message += f" {' and '.join(map(repr, rivals))} became further columns."
    return (Finding("list_columns", INFO, len(names), (), message),)
