"""Finds the version for "leaves/3", "leaves", "3", or no name at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.artifacts.decision import REJECTED
from pergola.components.errors import InputError
from pergola.components.records import nearest

if TYPE_CHECKING:
    from pergola.components.workspace import Workspace


@dataclass(frozen=True)
class PublishedVersion:
    """A version whose SavedModel is in the workspace: published, or registered and held."""

    model: str
    version: int
    folder: Path  # of the SavedModel

    def __str__(self) -> str:
        return f"version {self.version} of '{self.model}'"


def resolve_version(workspace: Workspace, text: str | None) -> PublishedVersion:
    """The version that `text` names; without a number, the champion.

    Raises InputError if there is no such model or version, or if the model is ambiguous.
    """
    model, version = _parse(workspace, text)
    version = version or _champion(workspace, model)
    folder = workspace.models / model / str(version)
    if not folder.is_dir():
        folder = registered_model(workspace, model, version)
    return PublishedVersion(model, version, folder)


def registered_model(workspace: Workspace, model: str, version: int) -> Path:
    """The SavedModel of a version that is not published, where the workspace's registry keeps it.

    Raises InputError if it is not there, or not what was registered.
    """
    from pergola.components import digest
    from pergola.components.release import champions

    found = champions.known(workspace, model, version)
    kept = workspace.root.glob(f"mlartifacts/*/artifacts/model-{found.sha256[:12]}") if found else ()
    for folder in kept:
        if found and digest.of_folder(folder) == found.sha256:
            return folder
    listed = ", ".join(map(str, known_versions(workspace, model))) or "none"
    raise InputError(f"No version {version} of '{model}' is in {workspace.root}. It has: {listed}.")


def known_versions(workspace: Workspace, model: str) -> list[int]:
    """The versions that are published, or registered with a provenance, ascending."""
    from pergola.components.store.publish import published

    recorded = (int(p.name) for p in (workspace.versions / model).glob("*") if p.name.isdecimal())
    return sorted({*published(workspace.models, model), *recorded})


def only_model(workspace: Workspace) -> str:
    """The name of the only model in the workspace. Raises InputError if there is none or more than one."""
    workspace.require()
    names = model_names(workspace)
    if not names:
        raise InputError(
            f"No model is published in {workspace.root}.{rejected(workspace)} "
            "Train one with `pergola run DATASET`."
        )
    if len(names) > 1:
        raise InputError(f"{workspace.root} has the models {', '.join(names)}. Choose one with --model.")
    return names[0]


def model_names(workspace: Workspace) -> list[str]:
    """Names of the models that have a version, published or registered."""
    places = (*workspace.models.glob("[!.]*"), *workspace.versions.glob("[!.]*"))
    return sorted({place.name for place in places if place.is_dir()})


def rejected(workspace: Workspace, model: str | None = None) -> str:
    """A sentence when the gate rejected the last model (of this name); empty otherwise."""
    results = (workspace.run_record(id).get("result") or {} for id in reversed(workspace.run_ids()))
    last = next((r for r in results if r and model in (None, r.get("model"))), {})
    if last.get("outcome") != REJECTED:
        return ""
    return f" The gate rejected the model of the last run; the report says why: {last.get('report')}."


def _parse(workspace: Workspace, text: str | None) -> tuple[str, int | None]:
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
        why = rejected(workspace, model) or nearest(model, model_names(workspace))
        raise InputError(f"There is no model '{model}' in {workspace.root}.{why}")
    known = known_versions(workspace, model)
    if number and int(number) not in known:
        listed = ", ".join(map(str, known)) or "none"
        raise InputError(f"No version {number} of '{model}' is in {workspace.root}. It has: {listed}.")
    return model, int(number) if number else None


def _champion(workspace: Workspace, model: str) -> int:
    from pergola.components.release.champions import live_version

    if version := live_version(workspace, model):
        return version
    known = known_versions(workspace, model)
    if not known:
        raise InputError(
            f"No version of '{model}' is published in {workspace.root}. Train one with `pergola run`."
        )
    raise InputError(
        f"No version of '{model}' is released in {workspace.root}. It has: {', '.join(map(str, known))}; "
        f"release one with `pergola promote {known[-1]}`, or name it: {model}/{known[-1]}."
    )
