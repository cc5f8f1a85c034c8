"""Which published version a person means: "leaves/3", "leaves", "3", or nothing at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.errors import InputError
from pergola.components.records import nearest

if TYPE_CHECKING:
    from pergola.components.workspace import Workspace


@dataclass(frozen=True)
class Named:
    """A version in the workspace."""

    model: str
    version: int
    folder: Path  # that servers load

    def __str__(self) -> str:
        return f"version {self.version} of '{self.model}'"


def named(workspace: Workspace, text: str | None) -> Named:
    """The version that `text` names; the champion where it names none.

    Raises InputError when there is no such model or version, or when more than one model could be meant.
    """
    model, version = _parts(workspace, text)
    version = version or _champion(workspace, model)
    return Named(model, version, workspace.models / model / str(version))


def only_model(workspace: Workspace) -> str:
    """The name of the workspace's one model. Raises InputError when there is none or more than one."""
    workspace.require()
    names = model_names(workspace)
    if not names:
        raise InputError(f"No model is published in {workspace.root}. Make one with `pergola run DATASET`.")
    if len(names) > 1:
        raise InputError(f"{workspace.root} has the models {', '.join(names)}. Choose one with --model.")
    return names[0]


def model_names(workspace: Workspace) -> list[str]:
    """Names of the published models."""
    return sorted(p.name for p in workspace.models.glob("*") if p.is_dir() and not p.name.startswith("."))


def _parts(workspace: Workspace, text: str | None) -> tuple[str, int | None]:
    from pergola.components.store.publish import published

    workspace.require()
    name, slash, number = (text or "").rpartition("/")
    if not slash:
        is_number = re.fullmatch(r"\d+", number) and number not in model_names(workspace)
        name, number = ("", number) if is_number else (number, "")
    if number and not number.isdecimal():
        raise InputError(
            f"'{text}' names no version. Wanted MODEL/VERSION, such as leaves/3, or one of both."
        )
    model = name or only_model(workspace)
    if model not in model_names(workspace):
        raise InputError(f"No model '{model}' in {workspace.root}.{nearest(model, model_names(workspace))}")
    known = published(workspace.models, model)
    if number and int(number) not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise InputError(f"No version {number} of '{model}' is published in {workspace.root}: {listed}.")
    return model, int(number) if number else None


def _champion(workspace: Workspace, model: str) -> int:
    from pergola.components.release.registry import champion_of
    from pergola.components.store.publish import published

    known = published(workspace.models, model)
    champion = champion_of(workspace.tracking_uri, model)
    if champion is not None and champion.version in known:
        return champion.version
    if not known:
        raise InputError(
            f"No version of '{model}' is published in {workspace.root}. `pergola run` makes one."
        )
    return known[-1]
