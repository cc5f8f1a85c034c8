"""TensorFlow Serving's `models.config`: which versions it loads, and which label names which version.

The server polls the file and takes a change as a whole. A label must not move before its new version
is loaded, or requests by label fail meanwhile: `step` moves it when the server says it is ready.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from pergola.components.store.release_record import CANARY, STABLE, Release

BOTH = "both"
TRACKS = (STABLE, CANARY, BOTH)


@dataclass(frozen=True)
class ModelConfig:
    """The part of models.config that speaks of one model."""

    versions: tuple[int, ...] = ()  # that the server loads, ascending
    labels: Mapping[str, int] = field(default_factory=dict)


def wanted(release: Release, track: str) -> ModelConfig:
    """What a server on this track ends up with.

    stable: the stable version.  canary: the canary, or the stable version while there is none, so that
    its pods are never idle.  both: the two side by side; a request that names none gets the higher number.
    """
    labels: dict[str, int] = {}
    if release.stable is not None and (track != CANARY or release.canary is None):
        labels[STABLE] = release.stable
    if release.canary is not None and track != STABLE:
        labels[CANARY] = release.canary
    return ModelConfig(tuple(sorted(set(labels.values()))), labels)


def step(current: ModelConfig, goal: ModelConfig, is_ready: Callable[[int], bool]) -> ModelConfig:
    """The next config on the way to `goal`: the new version is loaded beside the old, then its label moves.

    is_ready: whether the server has loaded a version; always true where no server can be asked.
    A label that is new waits, too: what a label names counts as loaded from then on.
    """
    if not current.versions or all(is_ready(version) for version in goal.versions):
        return goal
    labels = {label: version for label, version in goal.labels.items() if is_ready(version)}
    labels = {**current.labels, **labels}
    return ModelConfig(tuple(sorted({*goal.versions, *labels.values()})), labels)


def to_text(configs: Mapping[str, ModelConfig], folder: PurePath) -> str:
    """The file, a text proto of tensorflow.serving.ModelServerConfig.

    folder: absolute, with `<model>/<version>/` below it. A model without versions is left out.
    """
    entries = "".join(
        _entry(name, configs[name], folder) for name in sorted(configs) if configs[name].versions
    )
    return f"model_config_list {{\n{entries}}}\n"


def _entry(name: str, config: ModelConfig, folder: PurePath) -> str:
    lines: Iterable[str] = (
        "  config {",
        f"    name: {_quoted(name)}",
        f"    base_path: {_quoted(str(folder / name))}",
        '    model_platform: "tensorflow"',
        "    model_version_policy { specific { "
        + " ".join(f"versions: {v}" for v in config.versions)
        + " } }",
        *(
            f'    version_labels {{ key: "{label}" value: {version} }}'
            for label, version in sorted(config.labels.items())
        ),
        "  }",
    )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
