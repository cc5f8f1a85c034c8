"""`pergola promote`: release a registered version by the steps that a run releases an accepted one with."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError
from pergola.components.records import nearest
from pergola.pipelines.release.target import Target

if TYPE_CHECKING:
    from pergola.components.steps.context import Context
    from pergola.components.workspace import Workspace


def promote(
    target: Target, model: str | None, version: int, why: str, store: str | None = None
) -> dict[str, Any]:
    """Make a version the champion: published, confirmed, then released.  why: for the history.

    store: model store to which a version of a workspace is delivered as well.
    Raises InputError if there is no such version, or what confirms it is not known; StepError if it could not
    be confirmed. Then nothing changes.
    """
    from pergola.components.store import release_record

    if target.workspace is None:
        name = target.existing_model(model)
        return target.change(name, lambda r: release_record.make_stable(r, version), why=why)
    name = _model(target.workspace, model)
    before = target.store.release(name)
    if (before.stable, before.canary) != (version, None):
        _release(target.workspace, name, version, why, store)
    after = target.change(name, lambda release: release, why=why)  # settles what a killed process left
    return {**after, "changed": target.store.release(name) != before}


def _release(workspace: Workspace, model: str, version: int, why: str, store: str | None) -> None:
    from pergola.components.release.provenance import REFERENCE
    from pergola.components.steps import release

    place = _recorded(workspace, model, version)
    context = _context(workspace, place, model, why, store)
    with tempfile.TemporaryDirectory(prefix="promote-", dir=workspace.create_scratch()) as folder:
        out = Path(folder)
        export, publication = out / "export", out / "publication"
        _put_saved_model(workspace, model, version, export)
        release.publish(context, publication, place, export, place / REFERENCE)
        release.final_test(context, out / "final_test", publication, place)
        release.confirm(context, out / "confirmation", publication, out / "final_test")
        if store:
            release.deliver_version(context, model, version)


def _recorded(workspace: Workspace, model: str, version: int) -> Path:
    """The provenance of a version, with all that confirms it."""
    from pergola.components.artifacts.evaluation import GoldenRequests
    from pergola.components.artifacts.release import Registration
    from pergola.pipelines.release.resolve import known_versions

    place = workspace.version(model, version)
    if not (place / Registration.FILE).is_file():
        listed = ", ".join(map(str, known_versions(workspace, model))) or "none"
        raise InputError(
            f"{workspace.root} has no record of version {version} of '{model}'. It has: {listed}."
        )
    if not (place / GoldenRequests.FILE).is_file():
        raise InputError(
            f"Version {version} of '{model}' has no golden requests to confirm it with: pergola 0.1.0 kept "
            f"none, and `pergola forget` removes them. Release it without them: "
            f"pergola release stable {version}."
        )
    return place


def _context(workspace: Workspace, place: Path, model: str, why: str, store: str | None) -> Context:
    """Of the run that made the version: its settings, its data set."""
    from pergola.components import settings
    from pergola.components.release import provenance
    from pergola.components.steps.context import Context, RunInfo

    origin = provenance.Provenance.load(place)
    return Context(
        Path(origin.source), model, settings.load(place / provenance.SETTINGS), workspace,
        run=RunInfo(origin.run, command=why), store=store, make_stable=True,
    )  # fmt: skip


def _put_saved_model(workspace: Workspace, model: str, version: int, export: Path) -> None:
    """The SavedModel, as the step `export` leaves it: published already, or from the registry's artifacts.

    `publish` compares its SHA-256 with the registered one.
    """
    from pergola.components.release.champions import known
    from pergola.components.release.registry.registry import Registry
    from pergola.pipelines.release.resolve import registered_model

    export.mkdir()
    published = workspace.models / model / str(version)
    if published.is_dir():
        source = published
    elif workspace.has_own_registry:
        source = registered_model(workspace, model, version)
    else:
        found = known(workspace, model, version)
        if found is None:
            raise InputError(f"The registry has no version {version} of '{model}'.")
        source = Registry(workspace.tracking_uri).runs.fetch(found, export)
    (export / "saved_model").symlink_to(source)


def _model(workspace: Workspace, model: str | None) -> str:
    from pergola.pipelines.release.resolve import model_names, only_model

    if model is None:
        return only_model(workspace)
    if model not in (names := model_names(workspace)):
        raise InputError(f"There is no model '{model}' in {workspace.root}.{nearest(model, names)}")
    return model
