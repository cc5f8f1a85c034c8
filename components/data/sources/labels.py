"""The texts of labels: one check for every kind of source, and for two sources that are used as one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from pergola.components.errors import InputError

# Texts that programs write where a value is missing.
_MISSING = frozenset(
    ("nan", "none", "null", "n/a", "#n/a", "na", "<na>", "nat", "-", "?", "nil", "undefined")
)


def check_labels(labels: Iterable[str], where: Path | str) -> None:
    """Raises InputError for an empty label, and for two that look alike: case, blanks, accents."""
    seen: dict[str, str] = {}
    for label in sorted(labels):
        if not label.strip():
            raise InputError(f"'{where}' has a class without a name: give it one.")
        other = seen.setdefault(_alike(label), label)
        if other != label:
            raise InputError(
                f"'{where}' has two classes '{other}' and '{label}' that differ only in "
                f"{_difference(other, label)}: rename one, or merge them."
            )


def stands_for_missing(label: str) -> bool:
    """Whether a label is what programs write for a missing value, such as `nan`."""
    return label.strip().casefold() in _MISSING


def _alike(label: str) -> str:
    return " ".join(unicodedata.normalize("NFC", label).casefold().split())


def _difference(one: str, other: str) -> str:
    def composed(label: str) -> str:
        return unicodedata.normalize("NFC", label)

    if composed(one) == composed(other):
        return "how their accents are encoded"
    if composed(one).split() == composed(other).split():
        return "blanks"
    if composed(one).casefold() == composed(other).casefold():
        return "upper and lower case"
    return "case, blanks or how their accents are encoded"
