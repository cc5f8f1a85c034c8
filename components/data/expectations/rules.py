"""Expectations as data: the rules of a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING
from pergola.components.errors import InputError
from pergola.components.records import nearest

DEFAULT = Path(__file__).with_name("expectations.toml")

_OWN = ("check", "expect", "column", "severity", "message", "quarantine", "tolerate")
_NAMES_SHOWN = 3
_TABLES = ("images", "classes", "shares")


@dataclass(frozen=True)
class Expectation:
    """One expectation on one column, and what it means when it is not met."""

    check: str
    expect: str  # name of the expectation in Great Expectations
    column: str
    arguments: Mapping[str, Any]
    severity: str
    message: str
    quarantine: bool = False
    tolerate: float = 0.0

    def is_violated(self, count: int, total: int) -> bool:
        """Whether more of `total` rows fail than are tolerated. count: rows that fail."""
        return count > 0 and count > self.tolerate * total

    def sentence(self, count: int, total: int, names: Sequence[str]) -> str:
        """The message for `count` failing rows of `total`. names: of the failing rows."""
        shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
        message = self.message.replace("{count}", f"{count:,}").replace("{total}", f"{total:,}")
        return message.replace("{names}", shown)


@dataclass(frozen=True)
class Rules:
    """All rules of a TOML file."""

    images: tuple[Expectation, ...]
    classes: tuple[Expectation, ...]
    shares: Mapping[str, float] = field(default_factory=dict)  # class -> expected share of the images


def load(path: Path) -> Rules:
    """The rules of a TOML file. Raises InputError when it is missing, broken or has unknown keys."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"The expectations '{path}' cannot be read ({error.strerror}): check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The expectations '{path}' are not valid TOML: {error}.") from None
    for table in data:
        if table not in _TABLES:
            raise InputError(f"{path}: unknown table '{table}'.{nearest(table, _TABLES)}")
    rules = {
        table: tuple(
            _rule(row, f"{path}, [[{table}]] {number}") for number, row in enumerate(data.get(table, []), 1)
        )
        for table in ("images", "classes")
    }
    return Rules(**rules, shares=_shares(data.get("shares", {}), path))


def _shares(table: Any, path: Path) -> dict[str, float]:
    for label, share in table.items() if isinstance(table, Mapping) else [("", table)]:
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(
                f"{path}, [shares]: expected a share from 0 to 1 per class, got {label!r} = {share!r}."
            )
    return {str(label): float(share) for label, share in table.items()}


def _rule(row: Mapping[str, Any], where: str) -> Expectation:
    for key, kind in (("check", str), ("expect", str), ("column", str), ("severity", str), ("message", str)):
        if not isinstance(row.get(key), kind):
            raise InputError(f"{where}: expected a text for '{key}', got {row.get(key)!r}.")
    if row["severity"] not in (CRITICAL, WARNING, INFO):
        raise InputError(
            f"{where}: severity '{row['severity']}' is not one of {CRITICAL}, {WARNING}, {INFO}."
        )
    if "mostly" in row:
        raise InputError(
            f"{where}: 'mostly' is not supported. Use tolerate = {1 - float(row['mostly']):.3g} instead."
        )
    arguments = {key: value for key, value in row.items() if key not in _OWN}
    return Expectation(
        row["check"], row["expect"], row["column"], arguments, row["severity"], row["message"],
        bool(row.get("quarantine", False)), float(row.get("tolerate", 0.0)),
    )  # fmt: skip
