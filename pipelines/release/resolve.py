"""Finds the published version for "leaves/3", "leaves", "3", or no name at all."""

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
class PublishedVersion:
    """A published version in the workspace."""

    model: str
    version: int
    folder: Path  # the folder that servers load

    def __str__(self) -> str:
        return f"version {self.version} of '{self.model}'"


def resolve_version(workspace: Workspace, text: str | None) -> PublishedVersion:
    """The version that `text` names; without a number, the champion.

    Raises InputError if there is no such model or version, or if the model is ambiguous.
    """
    model, version = _parse(workspace, text)
    version = version or _champion(workspace, model)
    return PublishedVersion(model, version, workspace.models / model / str(version))


def only_model(workspace: Workspace) -> str:
    """The name of the only model in the workspace. Raises InputError if there is none or more than one."""
    workspace.require()
    names = model_names(workspace)
    if not names:
        raise InputError(f"No model is published in {workspace.root}. Train one with `pergola run DATASET`.")
    if len(names) > 1:
        raise InputError(f"{workspace.root} has the models {', '.join(names)}. Choose one with --model.")
    return names[0]


def model_names(workspace: Workspace) -> list[str]:
    """Names of the published models."""
    return sorted(p.name for p in workspace.models.glob("*") if p.is_dir() and not p.name.startswith("."))


def _parse(workspace: Workspace, text: str | None) -> tuple[str, int | None]:
    from pergola.components.store.publish import published

    workspace.require()
    name, slash, number = (text or "").rpartition("/")
    if not slash:
        is_number = re.fullmatch(r"\d+", number) and number not in model_names(workspace)
        name, number = ("", number) if is_number else (number, "")
    if number and not number.isdecimal():
        raise InputError(
            f"'{text}' is not a version. Expected MODEL/VERSION, such as leaves/3, or one of the two."
        )
    model = name or only_model(workspace)
    if model not in model_names(workspace):
        raise InputError(
            f"There is no model '{model}' in {workspace.root}.{nearest(model, model_names(workspace))}"
        )
    known = published(workspace.models, model)
    if number and int(number) not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise InputError(
            f"No version {number} of '{model}' is published in {workspace.root}. Published: {listed}."
        )
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
            f"No version of '{model}' is published in {workspace.root}. Train one with `pergola run`."
        )
    return known[-1]
