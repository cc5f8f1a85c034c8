"""TensorFlow Serving's `models.config`: the versions it loads and the labels of versions.

The server polls the file and applies a change as a whole. If a label moved before its new version is loaded,
requests by label would fail: `step` moves it once the server reports the version as available.
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
class ConfigEntry:
    """The entry of one model in models.config."""

    versions: tuple[int, ...] = ()  # that the server loads, ascending
    labels: Mapping[str, int] = field(default_factory=dict)


def wanted(release: Release, track: str) -> ConfigEntry:
    """The final entry for a server on this track.

    stable: the stable version.  canary: the canary, or the stable version if there is none, so that
    its pods are never idle.  both: both of them; a request without version or label gets the higher number.
    """
    labels: dict[str, int] = {}
    if release.stable is not None and (track != CANARY or release.canary is None):
        labels[STABLE] = release.stable
    if release.canary is not None and track != STABLE:
        labels[CANARY] = release.canary
    return ConfigEntry(tuple(sorted(set(labels.values()))), labels)


def step(current: ConfigEntry, goal: ConfigEntry, is_ready: Callable[[int], bool]) -> ConfigEntry:
    """The next entry towards `goal`: the new version is loaded beside the old one, then its label moves.

    is_ready: whether the server has loaded a version; always true without a server to ask.
    A new label waits as well, since a labelled version counts as loaded.
    """
    if not current.versions or all(is_ready(version) for version in goal.versions):
        return goal
    labels = {label: version for label, version in goal.labels.items() if is_ready(version)}
    labels = {**current.labels, **labels}
    return ConfigEntry(tuple(sorted({*goal.versions, *labels.values()})), labels)


def to_text(
    configs: Mapping[str, ConfigEntry], folder: PurePath, more: Callable[[str], str] = lambda name: ""
) -> str:
    """The file, a text proto of tensorflow.serving.ModelServerConfig.

    folder: absolute, with `<model>/<version>/` below it. A model without versions is omitted.
    more: name -> further lines of its entry.
    """
    entries = "".join(
        _entry(name, configs[name], folder, more(name)) for name in sorted(configs) if configs[name].versions
    )
    return f"model_config_list {{\n{entries}}}\n"


def _entry(name: str, config: ConfigEntry, folder: PurePath, more: str) -> str:
    lines: Iterable[str] = (
        "  config {",
        f"    name: {quoted(name)}",
        f"    base_path: {quoted(str(folder / name))}",
        '    model_platform: "tensorflow"',
        "    model_version_policy { specific { "
        + " ".join(f"versions: {v}" for v in config.versions)
        + " } }",
        *(
            f'    version_labels {{ key: "{label}" value: {version} }}'
            for label, version in sorted(config.labels.items())
        ),
        *more.splitlines(),
        "  }",
    )
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
