"""Expectations as data: the rules of a TOML file, or of a suite of Great Expectations (suite.py)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING
from pergola.components.errors import InputError
from pergola.components.records import nearest

DEFAULT = Path(__file__).with_name("expectations.toml")

_OWN = ("check", "expect", "column", "severity", "message", "quarantine", "tolerate", "meaning")
_NAMES_SHOWN = 3
_TABLES = ("images", "classes", "shares")


@dataclass
class Outcome:
    """What a rule found in a table, or in several parts of one."""

    rows: list[int] = field(default_factory=list)  # that fail it, ascending
    values: int = 0  # that it looked at: all that are not missing, unless it is about missing ones
    observed: str = ""  # of a rule on the table as a whole that is not met: what it saw instead

    def add(self, other: Outcome, start: int) -> None:
        """Take in the outcome of a further part, whose first row is row `start` of the table."""
        self.rows += [start + row for row in other.rows]
        self.values += other.values
        self.observed = self.observed or other.observed


@dataclass(frozen=True)
class Expectation:
    """One expectation on one column, or on the table, and what it means when it is not met."""

    check: str
    expect: str  # name of the expectation in Great Expectations
    column: str  # empty: its arguments name several, or none
    arguments: Mapping[str, Any]
    severity: str
    message: str
    quarantine: bool = False
    tolerate: float = 0.0  # share of the values
    meaning: str = ""  # what is expected, in a sentence

    def is_violated(self, outcome: Outcome) -> bool:
        """Whether the table as a whole fails, or more values than are tolerated."""
        return bool(outcome.observed) or len(outcome.rows) > self.tolerate * outcome.values

    def sentence(self, outcome: Outcome, total: int, names: Sequence[str]) -> str:
        """The message for the failing rows of `total`. names: of the failing rows."""
        if outcome.observed:
            return f"Not met by all {total:,} together: {self.described} Observed: {outcome.observed}."
        shown = ", ".join(f"'{name}'" for name in names[:_NAMES_SHOWN])
        message = self.message.replace("{count}", f"{len(outcome.rows):,}")
        return message.replace("{total}", f"{total:,}").replace("{names}", shown)

    @property
    def described(self) -> str:
        """What is expected, as a sentence: the rule's own, or one made of its arguments."""
        if self.meaning:
            return self.meaning.rstrip(".") + "."
        arguments = {**({"column": self.column} if self.column else {}), **self.arguments}
        listed = ", ".join(f"{key} {value!r}" for key, value in arguments.items())
        return f"{self.expect} ({listed})."


@dataclass(frozen=True)
class Rules:
    """All rules of a TOML file."""

    images: tuple[Expectation, ...]
    classes: tuple[Expectation, ...]
    shares: Mapping[str, float] = field(default_factory=dict)  # class -> expected share of the images


def load(path: Path) -> Rules:
    """The rules of a TOML file, or of a suite of Great Expectations (.json).

    Raises InputError when it is missing, broken or has unknown keys.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            from pergola.components.data.expectations import suite

            return suite.read(text, path)
        data = tomllib.loads(text)
    except OSError as error:
        raise InputError(
            f"The expectations '{path}' cannot be read ({error.strerror}): check the path."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise InputError(f"The expectations '{path}' are not valid {kind}: {error}.") from None
    for table in data:
        if table not in _TABLES:
            raise InputError(f"{path}: unknown table '{table}'.{nearest(table, _TABLES)}")
    rules = {
        table: tuple(
            _rule(row, f"{path}, [[{table}]] {number}") for number, row in enumerate(data.get(table, []), 1)
        )
        for table in ("images", "classes")
    }
    return Rules(**rules, shares=shares_of(data.get("shares", {}), path))


def to_toml(wanted: Rules) -> str:
    """The rules as a TOML file."""
    lines: list[str] = []
    for table in ("images", "classes"):
        for rule in getattr(wanted, table):
            lines += [f"[[{table}]]", *toml_lines(rule), ""]
    if wanted.shares:
        lines += ["[shares]", *(f"{toml_text(label)} = {share}" for label, share in wanted.shares.items())]
    return "\n".join(lines).rstrip() + "\n"


def toml_lines(rule: Expectation) -> list[str]:
    """The lines of a rule's table."""
    values: dict[str, Any] = {"check": rule.check, "meaning": rule.meaning, "expect": rule.expect}
    values |= {"column": rule.column, **rule.arguments, "severity": rule.severity}
    values |= {"quarantine": rule.quarantine, "tolerate": rule.tolerate, "message": rule.message}
    return [f"{key} = {_toml(value)}" for key, value in values.items() if value != ""]


def _toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_text(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    return toml_text(value) if isinstance(value, str) else json.dumps(value)


def toml_text(text: str) -> str:
    """A TOML string or quoted key. JSON's escapes are TOML's, but for the delete character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def shares_of(table: Any, path: Path) -> dict[str, float]:
    """The expected share of each class. Raises InputError for what is not a share."""
    for label, share in table.items() if isinstance(table, Mapping) else [("", table)]:
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(
                f"{path}, [shares]: expected a share from 0 to 1 per class, got {label!r} = {share!r}."
            )
    return {str(label): float(share) for label, share in table.items()}


def _rule(row: Mapping[str, Any], where: str) -> Expectation:
    texts = {"column": "", "meaning": "", **row}
    for key in ("check", "expect", "column", "severity", "message", "meaning"):
        if not isinstance(texts.get(key), str):
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
        row["check"], row["expect"], texts["column"], arguments, row["severity"], row["message"],
        bool(row.get("quarantine", False)), float(row.get("tolerate", 0.0)), texts["meaning"],
    )  # fmt: skip
