"""All settings of a run from the struct parameters of its steps: checked first, told in the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pergola.components import records
from pergola.components.errors import InputError
from pergola.pipelines.kubeflow.failures import noted

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@noted
def settings(sections: Mapping[str, Mapping[str, Any]], model: str = "model") -> str:
    """The settings as TOML, with the types that their sections declare.

    sections: "scan", "train", … -> key -> value.  model: the name under which it will be released.
    Raises InputError for an unknown key, a bad value or a name that cannot be one, before any work.
    """
    check_name(model)
    lines = []
    for name, cls in _classes().items():
        values = records.to_dict(records.from_dict(cls, sections.get(name, {}), f"parameter {name}"))
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def check_name(model: str) -> None:
    """Raises InputError for a name under which nothing can be released."""
    if not _NAME.fullmatch(model):
        raise InputError(f"parameter model: '{model}' is no model's name. Wanted letters, digits, '-', '_'.")


def _classes() -> dict[str, type[Any]]:
    from pergola.components.data.checks.validate import ValidateSettings
    from pergola.components.data.manifest.scan import ScanSettings
    from pergola.components.data.shards import ShardSettings
    from pergola.components.data.split import SplitSettings
    from pergola.components.evaluation.evaluate import EvaluateSettings
    from pergola.components.evaluation.gate.gate import GateSettings
    from pergola.components.release.smoke_test import SmokeTestSettings
    from pergola.components.training.augmentation.augment import AugmentSettings
    from pergola.components.training.export import ExportSettings
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings

    return {
        "scan": ScanSettings,
        "validate": ValidateSettings,
        "split": SplitSettings,
        "shards": ShardSettings,
        "augment": AugmentSettings,
        "model": ModelSettings,
        "train": TrainSettings,
        "export": ExportSettings,
        "evaluate": EvaluateSettings,
        "smoke_test": SmokeTestSettings,
        "gate": GateSettings,
    }


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
