"""Bring models and registry back together after files were damaged or lost.

A published version whose files are not those that were published is set aside, and published again from the
registry's copy. Where there is none, it is withdrawn, and the champion before it is the champion again.
Published versions that the registry does not know, because it was lost, are registered again.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from pergola.components.errors import PergolaError
from pergola.components.release import champions
from pergola.components.release.champions import Champions, live_version
from pergola.components.release.registry.lookup import numbers_of, version_of
from pergola.components.release.registry.registry import Registry
from pergola.components.release.registry.runs import is_intact
from pergola.components.release.registry.versions import RegisteredVersion
from pergola.components.store.checksums import CHECKSUMS, NOTES
from pergola.components.store.model_store import open_store
from pergola.components.store.publish import (
    damage_of,
    model_sha256,
    publish,
    published,
    set_aside,
    sound_notes,
)
from pergola.components.store.release_record import make_stable, withdraw
from pergola.components.workspace import Workspace

log = logging.getLogger(__name__)


def champion(workspace: Workspace, model: str) -> RegisteredVersion | None:
    """The champion, whose folder is sound: a damaged one is repaired first, or another takes its place.

    What the registry lost is registered again, and a damaged models.config is written anew. All files of the
    version are read.
    """
    restore_registry(workspace, model)
    Champions(workspace).settle(model)
    found = _sound_champion(workspace, model)
    if found and workspace.has_own_registry and not workspace.server():  # a running server writes it itself
        champions.write_models_config(workspace)
    return found


def repair(workspace: Workspace, model: str, version: int) -> str:
    """Publish a damaged or missing version again, or withdraw it. Says what happened, in sentences.

    Empty if there is nothing to repair. Raises StepError when the registry cannot be used.
    """
    registered = version_of(workspace.tracking_uri, model, version)
    folder = workspace.models / model / str(version)
    problem = damage_of(folder, registered.sha256 if registered else "")
    if not problem:
        return ""
    aside = set_aside(workspace.models, model, version)
    kept = f" It is kept in {aside}." if aside else ""
    said = f"Version {version} of '{model}' was damaged: {problem}{kept}"
    try:
        if registered is None:
            raise PergolaError("The registry does not know it.")
        lost = _publish_again(workspace, registered, aside)
    except (PergolaError, OSError) as error:
        return f"{said} {error} {_withdrawn(workspace, model, version, registered)}"
    without = f", without its {', '.join(lost)}, which `pergola run` makes again" if lost else ""
    return f"{said} It was published again from the registry's copy{without}."


def restore_registry(workspace: Workspace, model: str) -> None:
    """Register published versions that the registry does not know; without a champion, the newest is it."""
    known = numbers_of(workspace.tracking_uri, model)
    missing = [number for number in published(workspace.models, model) if number not in known]
    if not missing:
        return
    registry, restored = Registry(workspace.tracking_uri), []
    for number in missing:
        folder = workspace.models / model / str(number)
        if problem := damage_of(folder):
            aside = set_aside(workspace.models, model, number)
            log.warning("version %d of '%s' is not in the registry and is damaged: %s It was moved to %s.",
                        number, model, problem, aside)  # fmt: skip
            continue
        with tempfile.TemporaryDirectory(prefix="pergola-") as scratch:
            copy = _model_in(folder, Path(scratch) / "saved_model")
            registry.restore(model, number, copy, sha256=model_sha256(folder))
        restored.append(number)
    if restored and registry.champion(model) is None:
        registry.promote(model, live_version(workspace, model) or restored[-1])
    log.warning("the registry did not know versions %s of '%s', which are published: registered again",
                ", ".join(map(str, restored)) or "(all damaged)", model)  # fmt: skip


def _sound_champion(workspace: Workspace, model: str) -> RegisteredVersion | None:
    while (found := champions.champion(workspace, model)) is not None:
        if not damage_of(workspace.models / model / str(found.version), found.sha256):
            return found
        log.warning("%s", repair(workspace, model, found.version))
        after = champions.champion(workspace, model)
        if after is not None and after.version == found.version:
            return after
    return None


def _publish_again(workspace: Workspace, version: RegisteredVersion, aside: Path | None) -> list[str]:
    """Gives the names of the notes of the release that were lost."""
    with tempfile.TemporaryDirectory(prefix="pergola-") as scratch:
        model, notes, lost = None, Path(scratch) / "notes", []
        if aside is not None:
            lost = sound_notes(aside, notes)
            if (aside / "saved_model.pb").is_file() and model_sha256(aside) == version.sha256:
                model = _model_in(aside, Path(scratch) / "saved_model")
        if model is None:
            model = Registry(workspace.tracking_uri).runs.fetch(version, _made(Path(scratch) / "fetched"))
        publish(model, workspace.models, version.model, version.version,
                notes=notes if notes.is_dir() else None, registered=version.sha256)  # fmt: skip
    return lost


def _withdrawn(workspace: Workspace, model: str, version: int, registered: RegisteredVersion | None) -> str:
    """What is served instead. A registry elsewhere stays as it is: its copy may be out of reach only now."""
    others = [number for number in published(workspace.models, model) if number != version]
    if registered is not None and not is_intact(workspace.tracking_uri, registered):
        _replace_champion(workspace, model, version, others)
        Registry(workspace.tracking_uri).withdraw(model, version)
    if live := live_version(workspace, model):
        return f"Version {live} is the champion."
    return f"Version {others[-1]} is served." if others else "Run `pergola run` with its images again."


def _replace_champion(workspace: Workspace, model: str, version: int, others: list[int]) -> None:
    """Another version is live instead of a damaged one: the one before it, else the newest, else none."""
    if live_version(workspace, model) != version:
        return
    before = open_store(workspace.models).release(model).previous
    after = before if before in others else max(others, default=None)
    Champions(workspace, "its files were damaged").change(
        model, lambda release: make_stable(release, after) if after else withdraw(release, version)
    )


def _model_in(folder: Path, target: Path) -> Path:
    """The SavedModel of a published folder, without what was published with it."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(CHECKSUMS))
    shutil.rmtree(target / NOTES, ignore_errors=True)
    return target


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
