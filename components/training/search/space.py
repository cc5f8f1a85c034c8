"""A space of settings to search, kept as data: a TOML file whose tables are settings and their values."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.errors import InputError
from pergola.components.training.augmentation.augment import AugmentSettings
from pergola.components.training.hyperparameters import TrainSettings
from pergola.components.training.models.architectures import ModelSettings

SECTIONS: Mapping[str, type] = {"augment": AugmentSettings, "model": ModelSettings, "train": TrainSettings}

SCRATCH = Path(__file__).with_name("space.toml")
PRETRAINED = Path(__file__).with_name("space_pretrained.toml")


@dataclass(frozen=True)
class Tuned:
    """The sections that a search may change."""

    augment: AugmentSettings
    model: ModelSettings
    train: TrainSettings

    def changed(self, values: Mapping[str, Any]) -> Tuned:
        """With "section.key" set to other values. Raises InputError for a value that a setting refuses."""
        plain = records.to_dict(self)
        for name, value in values.items():
            section, _, key = name.partition(".")
            plain[section][key] = value
        parts: dict[str, Any] = {
            name: records.from_dict(cls, plain[name], f"[{name}]") for name, cls in SECTIONS.items()
        }
        return Tuned(**parts)

    def value(self, name: str) -> Any:
        """Of "section.key"."""
        section, _, key = name.partition(".")
        return getattr(getattr(self, section), key)


@dataclass(frozen=True)
class Parameter:
    """One setting and what it may be: `values`, or a number from `low` to `high`."""

    name: str  # "section.key"
    kind: type  # int, float, or another, whose values are listed
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    when: tuple[str, tuple[Any, ...]] | None = None  # another setting, and the values for which this is used

    def encoded(self, value: Any) -> Any:
        """A value as keras-tuner takes it: lists become text."""
        return json.dumps(value) if isinstance(value, list | tuple) else value

    def decoded(self, value: Any) -> Any:
        """The inverse of `encoded`."""
        is_list = any(isinstance(item, list | tuple) for item in self.values)
        if self.kind is bool:
            return bool(value)  # keras-tuner keeps it as a number
        if self.kind is float and not self.values:
            return float(f"{value:.6g}")  # keras-tuner adds up steps: 0.15000000000000002
        return json.loads(value) if is_list else value


def load(file: Path) -> tuple[Parameter, ...]:
    """The parameters of a space. Raises InputError for what no setting could be."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no space at '{file}'. Copy {SCRATCH} to begin with.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"Space {file} cannot be read as TOML: {error}.") from None
    found = []
    for section, keys in tables.items():
        if section not in SECTIONS or not isinstance(keys, dict):
            raise InputError(f"{file}: no section '{section}' to search.{records.nearest(section, SECTIONS)}")
        for key, table in keys.items():
            found.append(_parameter(section, key, table, file))
    names = [parameter.name for parameter in found]
    for parameter in found:
        if parameter.when and parameter.when[0] not in names[: names.index(parameter.name)]:
            raise InputError(
                f"{file}: {parameter.name}: 'when' names {parameter.when[0]}, which must come before."
            )
    if not found:
        raise InputError(f"Space {file} is empty: nothing to search.")
    return tuple(found)


def _parameter(section: str, key: str, table: Any, file: Path) -> Parameter:
    name, cls = f"{section}.{key}", SECTIONS[section]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if key not in fields:
        raise InputError(f"{file}: no setting {name}.{records.nearest(key, fields)}")
    if not isinstance(table, dict) or not ({"values"} <= set(table) or {"low", "high"} <= set(table)):
        raise InputError(f"{file}: {name} wants values = […], or low and high. Got {table!r}.")
    if unknown := set(table) - {"values", "low", "high", "step", "log", "when"}:
        raise InputError(f"{file}: {name}: unknown key '{min(unknown)}'.")
    kind = typing.get_type_hints(cls)[key]
    parameter = Parameter(
        name,
        kind,
        tuple(table.get("values", ())),
        table.get("low", 0.0),
        table.get("high", 0.0),
        table.get("step"),
        bool(table.get("log", False)),
        _condition(name, table.get("when"), file),
    )
    if "values" not in table and kind not in (int, float):
        raise InputError(f"{file}: {name} is no number: give values = […].")
    for value in parameter.values if "values" in table else (parameter.low, parameter.high):
        records.from_dict(cls, {key: value}, f"{file}: [{section}]")
    return parameter


def _condition(name: str, when: Any, file: Path) -> tuple[str, tuple[Any, ...]] | None:
    if when is None:
        return None
    if not isinstance(when, dict) or len(when) != 1 or not isinstance(next(iter(when.values())), list):
        raise InputError(f'{file}: {name}: wanted when = {{ "section.key" = [values] }}, got {when!r}.')
    ((other, values),) = when.items()
    return other, tuple(values)
