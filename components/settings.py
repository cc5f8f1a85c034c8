"""Settings of a run: one frozen object from defaults, a TOML file and --set, in this order.

Each section is a dataclass next to the code that it configures; this module combines them, so that
`pergola config` can print all of them with comments.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.data.checks.validate import ValidateSettings
from pergola.components.data.manifest.scan import ScanSettings
from pergola.components.data.shards import ShardSettings
from pergola.components.data.split import SplitSettings
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.drift import DriftSettings
from pergola.components.evaluation.evaluate import EvaluateSettings
from pergola.components.evaluation.gate.gate import GateSettings
from pergola.components.release.retrain import RetrainSettings
from pergola.components.release.smoke_test import SmokeTestSettings
from pergola.components.training.augmentation.augment import FAINT, AugmentSettings
from pergola.components.training.export import ExportSettings
from pergola.components.training.fit import TrainSettings
from pergola.components.training.models.architectures import ModelSettings

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
RENAMED = {"rehearse": "smoke_test"}  # sections by their names in 0.1.0


@dataclass(frozen=True)
class ReleaseSettings:
    """Name of the released model, and how many runs a workspace keeps."""

    name: str = records.setting("", "name of the model (empty: the name of the dataset)")
    allow_contract_changes: bool = records.setting(
        False, "a model may lose or change classes, inputs and outputs that the champion has"
    )
    keep_runs: int = records.setting(5, "number of runs whose intermediate files are kept", low=1)
    signing_key: str = records.setting(
        "",
        "private key (PEM, elliptic curve) that published versions are signed with; empty: unsigned",
        file=True,
    )


@dataclass(frozen=True)
class Settings:
    """All sections; an attribute is a section of the TOML file."""

    scan: ScanSettings = field(default_factory=ScanSettings)
    validate: ValidateSettings = field(default_factory=ValidateSettings)
    split: SplitSettings = field(default_factory=SplitSettings)
    shards: ShardSettings = field(default_factory=ShardSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    export: ExportSettings = field(default_factory=ExportSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    smoke_test: SmokeTestSettings = field(default_factory=SmokeTestSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)
    drift: DriftSettings = field(default_factory=DriftSettings)
    retrain: RetrainSettings = field(default_factory=RetrainSettings)

    @classmethod
    def of(cls, tables: Mapping[str, Mapping[str, Any]], where: str = "") -> Settings:
        """From plain values by section; missing keys have their defaults.

        where: prefix of a section's name in errors.  Raises InputError for an unknown section, key or value.
        """
        return _settings(tables, {name: f"{where}{name}" for name in tables})

    def of_a_run(self) -> Settings:
        """Without the sections that do not affect a run, so that they do not invalidate its cache."""
        return dataclasses.replace(self, drift=DriftSettings(), retrain=RetrainSettings())


def load(file: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from defaults, then `file`, then "section.key=value" strings.

    Raises InputError for a file that is missing or no TOML, an unknown section or key (with the
    nearest known one), a value of a wrong type or out of bounds.
    """
    tables: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    if file is not None:
        for section, values in _read_toml(file).items():
            if not isinstance(values, dict):
                raise InputError(
                    f"{file}: '{section}' is outside of a section. Move it below a [section] line."
                )
            tables[section], sources[section] = dict(values), f"[{section}] in {file}"
    for text in overrides:
        section, key, value = _parse_override(text)
        tables.setdefault(section, {})[key] = value
        sources.setdefault(section, f"--set {section}")
    return _with_lighting(_settings(tables, sources))


def _with_lighting(settings: Settings) -> Settings:
    """With a weak variation of brightness and contrast for pretrained networks, unless set otherwise: these
    have already learned to ignore lighting."""
    augment = settings.augment
    if not settings.model.weights:
        return settings
    brightness = FAINT[0] if augment.brightness < 0 else augment.brightness
    contrast = FAINT[1] if augment.contrast < 0 else augment.contrast
    return dataclasses.replace(
        settings, augment=dataclasses.replace(augment, brightness=brightness, contrast=contrast)
    )


def from_toml(text: str) -> Settings:
    """Settings as written by `to_toml`."""
    return Settings.of(tomllib.loads(text), "section ")


def check_model_name(model: str) -> None:
    """Raises InputError for a name that cannot be the name of a model."""
    if not _MODEL_NAME.fullmatch(model):
        raise InputError(
            f"parameter model: '{model}' cannot be a model's name. Use letters, digits, '-' and '_'."
        )


def to_toml(settings: Settings) -> str:
    """The settings as TOML, with a comment for each key."""
    lines = []
    for section in dataclasses.fields(Settings):
        part = getattr(settings, section.name)
        lines += [f"# {_first_line(type(part))}", f"[{section.name}]"]
        for key in dataclasses.fields(part):
            value = records.toml_value(getattr(part, key.name))
            lines += [f"# {comment(key)}", f"{key.name} = {value}"]
        lines.append("")
    return "\n".join(lines)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"Config file {file} does not exist. Create one with `pergola config > {file}`."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"Config file {file} cannot be read as TOML: {error}.") from None


def _parse_override(text: str) -> tuple[str, str, Any]:
    name, equals, raw = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise InputError(f"--set expects section.key=value, got '{text}'. Example: --set train.epochs=10.")
    try:
        return section, key, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return section, key, raw.strip()


def _settings(tables: Mapping[str, Mapping[str, Any]], sources: Mapping[str, str]) -> Settings:
    sections = {f.name: f for f in dataclasses.fields(Settings)}
    parts: dict[str, Any] = {}
    for name, values in records.renamed(tables, RENAMED, "settings").items():
        if name not in sections:
            raise InputError(f"{sources[name]}: unknown section '{name}'.{records.nearest(name, sections)}")
        cls = sections[name].default_factory
        parts[name] = records.from_dict(cls, values, sources.get(name, f"[{name}]"))  # type: ignore[arg-type]
    return Settings(**parts)


def comment(key: dataclasses.Field[Any]) -> str:
    """Description of a setting and its allowed values."""
    help = key.metadata.get("help", "")
    choices = key.metadata.get("choices") or ()
    low, high = key.metadata.get("low"), key.metadata.get("high")
    if choices:
        return f"{help} ({' | '.join(map(str, choices))})"
    if low is not None and high is not None:
        return f"{help} ({low} to {high})"
    return help + (
        f" (at least {low})" if low is not None else f" (at most {high})" if high is not None else ""
    )


def _first_line(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).strip().splitlines()[0]
