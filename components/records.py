"""Frozen dataclasses to plain data and back, strictly.

Settings (from TOML) and artifacts (from JSON) are both frozen dataclasses with typed fields; settings also
have help and bounds. Loading coerces numbers (Kubeflow passes integers as floats), rejects unknown keys and
suggests the nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pergola.components import digest
from pergola.components.errors import InputError

T = TypeVar("T")

log = logging.getLogger(__name__)


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    file: bool = False,
    was: str = "",
) -> Any:
    """A field of a settings dataclass: a recommended default and a one-line `help`.

    low, high: inclusive bounds of a number, or of each in a list.
    choices: the only values allowed, where not empty.  file: it names a file, whose content is what counts.
    was: the key's name in the release before, which is still read.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "file": file, "was": was}
    if isinstance(default, list | dict | set):
        raise TypeError("Settings are frozen: use a tuple for a sequence.")
    return dataclasses.field(default=default, metadata=metadata)


def from_dict(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """The record in `data`.

    where: the source for error messages: "[train] in pergola.toml", "decision.json".
    Raises InputError for an unknown key, a value of a wrong type, out of bounds or not a choice.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"{where}: expected a table of keys and values, got {data!r}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    data = renamed(
        data, {f.metadata["was"]: name for name, f in fields.items() if f.metadata.get("was")}, where
    )
    for key in data:
        if key not in fields:
            raise InputError(f"{where}: unknown key '{key}'.{nearest(key, fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _coerce(hints[name], data[name], f"{where}: {name}")
            _check(field, values[name], f"{where}: {name}")
        elif _is_required(field):
            raise InputError(f"{where}: key '{name}' is missing.")
    return cls(**values)


def renamed(data: Mapping[str, Any], names: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """Data with today's name for each key that had another one in the release before."""
    old = [key for key in data if key in names and names[key] not in data]
    for key in old:
        log.warning(
            "%s: '%s' is now called '%s'. The old name works for one more release.", where, key, names[key]
        )
    return {names[key] if key in old else key: value for key, value in data.items()}


def to_dict(record: Any) -> dict[str, Any]:
    """Plain data of a record: dicts, lists, strings, numbers, None."""
    return typing.cast(dict[str, Any], _plain(record))


def content_of(settings: Any) -> dict[str, Any]:
    """Plain data of settings in which a file is known by the SHA-256 of its content, wherever it lies."""
    plain = to_dict(settings)
    for field in dataclasses.fields(settings):
        if field.metadata.get("file"):
            plain[field.name] = digest.of_named_file(plain[field.name]) or plain[field.name]
    return plain


def save_json(record: Any, path: Path) -> None:
    """Write a record with its schema version, atomically."""
    data = {"schema": _schema(type(record)), **to_dict(record)}
    write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load_json(cls: type[T], path: Path) -> T:
    """The record in a file of `save_json`. Raises InputError if missing, damaged or of another class."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: expected a saved {cls.__name__}.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable as JSON ({error}). Delete it and run again.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(data).__name__}.")
    schema = data.pop("schema", None)
    expected = _schema(cls)
    if schema != expected:
        raise InputError(
            f"{path} contains '{schema}', expected '{expected}'. Another version of pergola wrote it."
        )
    return from_dict(cls, data, str(path))


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file atomically: write a temporary file beside it, flush it to disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    raw = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(partial, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """A sentence that suggests the nearest known word, lists all of them, or says that there are none."""
    names = list(known)
    if not names:
        return " There are none yet."
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(names)}."


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)


def _schema(cls: type) -> str:
    """Name and version in the file. A class that is renamed keeps its files' name as SCHEMA_NAME."""
    return f"{getattr(cls, 'SCHEMA_NAME', cls.__name__)}/{getattr(cls, 'SCHEMA', 1)}"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, str | bytes):
        return value.item()
    return value


def _coerce(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _coerce_tuple(arguments, value, where)
    if origin in (dict, Mapping) or hint is dict or getattr(origin, "__name__", "") == "Mapping":
        return _coerce_mapping(arguments, value, where)
    return _coerce_scalar(hint, value, where)


def _coerce_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    concrete = [option for option in options if option is not type(None)]
    for option in concrete:
        if not typing.get_origin(option) and isinstance(option, type) and type(value) is option:
            return value
    return _coerce(concrete[0], value, where)


def _coerce_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: expected a list, got {value!r}.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_coerce(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(arguments) != len(value):
        raise InputError(f"{where}: expected {len(arguments)} values, got {len(value)}: {value!r}.")
    return tuple(_coerce(hint, item, where) for hint, item in zip(arguments, value, strict=True))


def _coerce_mapping(arguments: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected a table, got {value!r}.")
    hint = arguments[1] if arguments else Any
    return {str(k): _coerce(hint, v, f"{where}.{k}") for k, v in value.items()}


def _coerce_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if hint is float:
            return float(value)
        if math.isfinite(value) and float(value).is_integer():
            return int(value)
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    raise InputError(f"{where}: expected {names.get(hint, hint)}, got {value!r}.")


def _check(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    choices = field.metadata.get("choices") or ()
    if choices and value not in choices:
        raise InputError(
            f"{where}: '{value}' is not one of {', '.join(map(str, choices))}.{_offer(value, choices)}"
        )
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_bounds(number, field.metadata.get("low"), field.metadata.get("high"), where)


def _check_bounds(number: float, low: float | None, high: float | None, where: str) -> None:
    too_low, too_high = low is not None and number < low, high is not None and number > high
    if too_low or too_high or not math.isfinite(number):
        limits = (
            f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        )
        raise InputError(f"{where}: {number} is out of bounds, expected {limits}.")


def _offer(value: Any, choices: tuple[Any, ...]) -> str:
    close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
