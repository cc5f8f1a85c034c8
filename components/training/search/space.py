"""A search space, read from a TOML file with one table per setting."""

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
class TunableSettings:
    """The sections that a search may change."""

    augment: AugmentSettings
    model: ModelSettings
    train: TrainSettings

    def changed(self, values: Mapping[str, Any]) -> TunableSettings:
        """A copy with new values by "section.key". Raises InputError for a value that is not allowed."""
        plain = records.to_dict(self)
        for name, value in values.items():
            section, _, key = name.partition(".")
            plain[section][key] = value
        parts: dict[str, Any] = {
            name: records.from_dict(cls, plain[name], f"[{name}]") for name, cls in SECTIONS.items()
        }
        return TunableSettings(**parts)

    def value(self, name: str) -> Any:
        """The value of "section.key"."""
        section, _, key = name.partition(".")
        return getattr(getattr(self, section), key)


Tuned = TunableSettings  # the old name, until all callers have the new one


@dataclass(frozen=True)
class Parameter:
    """One setting and its candidates: `values`, or the numbers from `low` to `high`."""

    name: str  # "section.key"
    kind: type  # int, float, or another type with listed values
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    when: tuple[str, tuple[Any, ...]] | None = (
        None  # another setting, and its values for which this one is searched
    )

    def encoded(self, value: Any) -> Any:
        """A value in keras-tuner's form: lists become JSON."""
        return json.dumps(value) if isinstance(value, list | tuple) else value

    def decoded(self, value: Any) -> Any:
        """The inverse of `encoded`."""
        is_list = any(isinstance(item, list | tuple) for item in self.values)
        if self.kind is bool:
            return bool(value)  # keras-tuner stores a number
        if self.kind is float and not self.values:
            return float(f"{value:.6g}")  # keras-tuner adds up steps: 0.15000000000000002
        return json.loads(value) if is_list else value


def load(file: Path) -> tuple[Parameter, ...]:
    """The parameters of a search space. Raises InputError for unknown settings and invalid values."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no search space at '{file}'. Start from a copy of {SCRATCH}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"Search space {file} cannot be read as TOML: {error}.") from None
    found = []
    for section, keys in tables.items():
        if section not in SECTIONS or not isinstance(keys, dict):
            raise InputError(
                f"{file}: section '{section}' cannot be searched.{records.nearest(section, SECTIONS)}"
            )
        for key, table in keys.items():
            found.append(_parameter(section, key, table, file))
    names = [parameter.name for parameter in found]
    for parameter in found:
        if parameter.when and parameter.when[0] not in names[: names.index(parameter.name)]:
            raise InputError(
                f"{file}: {parameter.name}: 'when' refers to {parameter.when[0]}, which must come before it."
            )
    if not found:
        raise InputError(f"Search space {file} is empty. Add a table such as [train.learning_rate].")
    return tuple(found)


def _parameter(section: str, key: str, table: Any, file: Path) -> Parameter:
    name, cls = f"{section}.{key}", SECTIONS[section]
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if key not in fields:
        raise InputError(f"{file}: unknown setting {name}.{records.nearest(key, fields)}")
    if not isinstance(table, dict) or not ({"values"} <= set(table) or {"low", "high"} <= set(table)):
        raise InputError(f"{file}: {name} needs values = […], or low and high. Got {table!r}.")
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
        raise InputError(f"{file}: {name} is not a number: list values = […] instead of low and high.")
    for value in parameter.values if "values" in table else (parameter.low, parameter.high):
        records.from_dict(cls, {key: value}, f"{file}: [{section}]")
    return parameter


def _condition(name: str, when: Any, file: Path) -> tuple[str, tuple[Any, ...]] | None:
    if when is None:
        return None
    if not isinstance(when, dict) or len(when) != 1 or not isinstance(next(iter(when.values())), list):
        raise InputError(f'{file}: {name}: expected when = {{ "section.key" = [values] }}, got {when!r}.')
    ((other, values),) = when.items()
    return other, tuple(values)
