"""Expectations as a suite of Great Expectations: the JSON that its versions from 1.0 on store.

What only pergola knows (table, check, message, quarantine, shares) stands under `meta.pergola`, so that rules
come back as they went. A suite without it is about images. A severity that is not given is critical.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING
from pergola.components.data.expectations import rules
from pergola.components.data.expectations.rules import Expectation, Rules
from pergola.components.errors import InputError

TABLES = ("images", "classes")
_KEY = "pergola"  # in `meta`
_DIGITS = 12  # of 1 - mostly
_IGNORED = ("mostly", "column", "batch_id", "result_format")


def own_type(check: str) -> str:
    """The name under which Great Expectations knows a check of ours (gx_project/own_expectations.py)."""
    return f"expect_check_{check}_to_find_nothing"


@cache
def own_types() -> Mapping[str, str]:
    """The types of the built-in rules -> the expectation of Great Expectations that each is."""
    default = rules.load(rules.DEFAULT)
    return {own_type(rule.check): rule.expect for rule in (*default.images, *default.classes)}


def write(wanted: Rules, name: str = _KEY) -> str:
    """The suite as JSON; expectations on classes say so in their `meta`."""
    rows = [configuration(rule, table) for table in TABLES for rule in getattr(wanted, table)]
    meta = {_KEY: {"shares": dict(wanted.shares)}} if wanted.shares else {}
    return json.dumps({"name": name, "expectations": rows, "meta": meta}, indent=2, ensure_ascii=False) + "\n"


def configuration(rule: Expectation, table: str) -> dict[str, Any]:
    """A rule as Great Expectations stores an expectation. table: "images" or "classes"."""
    own = {"table": table, "check": rule.check, "message": rule.message, "quarantine": rule.quarantine}
    kwargs = {**({"column": rule.column} if rule.column else {}), **rule.arguments}
    if rule.tolerate:
        kwargs["mostly"] = round(1 - rule.tolerate, _DIGITS)
    return {
        "type": rule.expect, "kwargs": kwargs, "severity": rule.severity, "meta": {_KEY: own},
        "description": rule.meaning or None,
    }  # fmt: skip


def read(text: str, path: Path) -> Rules:
    """The rules of a suite. Raises InputError when it is none. path: for messages."""
    try:
        suite = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"The expectations '{path}' are not valid JSON: {error}.") from None
    rows = suite.get("expectations") if isinstance(suite, Mapping) else None
    if not isinstance(rows, list):
        raise InputError(
            f"'{path}' is no suite of Great Expectations: it has no list 'expectations'. "
            "Give a file of the project's folder gx/expectations/."
        )
    found: dict[str, list[Expectation]] = {table: [] for table in TABLES}
    for number, row in enumerate(rows, 1):
        where = f"{path}, expectation {number}"
        table = _own(row, where).get("table", TABLES[0])
        if table not in found:
            raise InputError(f"{where}: it is about the table '{table}', not one of {', '.join(TABLES)}.")
        found[table].append(_rule(row, where))
    shares = rules.shares_of(_own(suite, str(path)).get("shares", {}), path)
    return Rules(tuple(found["images"]), tuple(found["classes"]), shares)


def _own(holder: Any, where: str) -> Mapping[str, Any]:
    """What stands under `meta.pergola`."""
    meta = holder.get("meta") if isinstance(holder, Mapping) else None
    own = (meta or {}).get(_KEY, {}) if isinstance(meta or {}, Mapping) else {}
    if not isinstance(own, Mapping):
        raise InputError(f"{where}: expected a table for meta.{_KEY}, got {own!r}.")
    return own


def _rule(row: Any, where: str) -> Expectation:
    kind, kwargs = (row.get("type"), row.get("kwargs")) if isinstance(row, Mapping) else (None, None)
    if not isinstance(kind, str) or not isinstance(kwargs, Mapping):
        raise InputError(
            f"{where}: expected 'type' and 'kwargs', as suites of Great Expectations 1.0 and later have them."
        )
    severity = row.get("severity") or CRITICAL
    if severity not in (CRITICAL, WARNING, INFO):
        raise InputError(f"{where}: severity {severity!r} is not one of {CRITICAL}, {WARNING}, {INFO}.")
    if dynamic := [
        key for key, value in kwargs.items() if isinstance(value, Mapping) and "$PARAMETER" in value
    ]:
        raise InputError(f"{where}: '{dynamic[0]}' is a suite parameter. Write its value into the suite.")
    own, column = _own(row, where), kwargs.get("column") or ""
    for key, value in (("column", column), *((key, own.get(key, "")) for key in ("check", "message"))):
        if not isinstance(value, str):
            raise InputError(f"{where}: expected a text for '{key}', got {value!r}.")
    expected = Expectation(
        own.get("check") or kind.removeprefix("expect_") + (f"({column})" if column else ""),
        own_types().get(kind, kind), column,
        {key: value for key, value in kwargs.items() if key not in _IGNORED and value is not None},
        severity, own.get("message", ""), bool(own.get("quarantine", False)), _tolerated(kwargs, where),
        _meaning(row),
    )  # fmt: skip
    if expected.message:
        return expected
    return replace(
        expected, message=f"{{count}} of {{total}} do not meet '{expected.described}', such as {{names}}."
    )


def _tolerated(kwargs: Mapping[str, Any], where: str) -> float:
    mostly = kwargs.get("mostly")
    if mostly is None:
        return 0.0
    if not isinstance(mostly, int | float) or not 0 <= mostly <= 1:
        raise InputError(f"{where}: expected a share from 0 to 1 for 'mostly', got {mostly!r}.")
    return round(1 - mostly, _DIGITS)


def _meaning(row: Mapping[str, Any]) -> str:
    notes = row.get("notes") or ""
    return str(row.get("description") or (" ".join(map(str, notes)) if isinstance(notes, list) else notes))
