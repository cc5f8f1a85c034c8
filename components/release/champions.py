"""Which version of each model of a workspace is live: one answer for servers, commands and the registry.

The release record, models/<model>/release.json, says it. The registry's alias and models.config, which
servers poll, follow: a change writes the record, moves the alias, then writes models.config; what a killed
process left undone is done by the next command. Where the registry is not the workspace's own (on a cluster,
whose servers follow a model store), it is the other way round: the record follows the alias.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from pergola.components import records
from pergola.components.errors import StepError
from pergola.components.release.registry.connection import sqlite_path
from pergola.components.release.registry.lookup import champion_of, version_of
from pergola.components.release.registry.registry import Registry
from pergola.components.release.registry.versions import RegisteredVersion
from pergola.components.store import models_config, release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.models_config import ConfigEntry
from pergola.components.store.publish import published
from pergola.components.store.release_record import Release, Unreadable
from pergola.serving.wire.contract import TOKEN_VARIABLE

if TYPE_CHECKING:
    from pergola.components.workspace import Workspace
    from pergola.serving.client import Client

log = logging.getLogger(__name__)


def live_version(workspace: Workspace, model: str) -> int | None:
    """The version that answers requests; None if none does.

    The release record's stable version. Without a record: the registry's champion or, where the registry does
    not know the model, its newest published version. Nothing is changed, and MLflow is not imported.
    """
    release = open_store(workspace.models).release(model) if workspace.models.is_dir() else Release()
    if release.generation and workspace.has_own_registry:
        return release.stable
    if _has_registry(workspace) and (found := champion_of(workspace.tracking_uri, model)):
        return found.version
    by_hand = [n for n in published(workspace.models, model) if not known(workspace, model, n)]
    return max(by_hand, default=None)


def champion(workspace: Workspace, model: str) -> RegisteredVersion | None:
    """The live version as the registry knows it; None if there is none, or the registry does not know it."""
    version = live_version(workspace, model)
    found = known(workspace, model, version) if version else None
    if found is None:
        return None
    release = open_store(workspace.models).release(model)
    return replace(found, champion=True, previous=release.previous if release.generation else found.previous)


def write_models_config(workspace: Workspace, more: Callable[[str], str] = lambda name: "",
                        only: tuple[str, ...] = ()) -> tuple[str, ...]:  # fmt: skip
    """Write <workspace>/models.config if it changes: each model at its live version. Gives their names.

    A model whose release record is damaged stays at the registry's champion: the others go on.
    more: name -> further lines of its entry.  only: these models; default: all.
    """
    names = only or tuple(sorted(p.name for p in workspace.models.glob("[!.]*") if p.is_dir()))
    live = {name: _live_or_alias(workspace, name) for name in names}
    entries = {
        name: ConfigEntry((version,)) for name, version in live.items()
        if version and (workspace.models / name / str(version)).is_dir()
    }  # fmt: skip
    text = models_config.to_text(entries, workspace.models, more)
    path = workspace.models_config
    if not path.is_file() or path.read_bytes() != text.encode("utf-8"):
        records.write_atomic(path, text)
        path.chmod(0o644)
    return tuple(entries)


@dataclass(frozen=True)
class Champions:
    """Changes which version is live.  why: for the history of the release record."""

    workspace: Workspace
    why: str = ""

    def champion(self, model: str) -> RegisteredVersion | None:
        """The live version."""
        return champion(self.workspace, model)

    def promote(self, model: str, version: int) -> int | None:
        """Make a published version the champion and give the one before it."""
        after = self.change(model, lambda release: release_record.make_stable(release, version))[1]
        return after.previous

    def withdraw(self, model: str, version: int) -> None:
        """Note that a candidate, which never was live, is not served any more."""
        Registry(self.workspace.tracking_uri).withdraw(model, version)

    def change(
        self, model: str, change: Callable[[Release], Release], *, anew: bool = False
    ) -> tuple[Release, Release]:
        """Change the release record; alias and models.config follow. Gives the record before and after.

        anew: a record that cannot be read counts as empty.  Raises what `Store.change` and `change` raise,
        StepError if the registry cannot be used; then nothing is changed.
        """
        registry = Registry(self.workspace.tracking_uri) if _has_registry(self.workspace) else None
        store = open_store(self.workspace.models)
        with self._locked(model):
            before = self._settled(model, registry, anew)
            after = store.change(model, change, anew=anew, why=self.why)
            _point(registry, model, after.stable)
            if not self.workspace.server():  # a running `pergola serve` writes it, with what it logs
                write_models_config(self.workspace)
        return before, after

    def settle(self, model: str) -> None:
        """Finish what a killed process left undone. Imports MLflow only if there is something to do."""
        if not self.workspace.has_own_registry or not _has_registry(self.workspace):
            return
        alias = champion_of(self.workspace.tracking_uri, model)
        if live_version(self.workspace, model) != (alias.version if alias else None):
            self.change(model, lambda release: release)

    def _settled(self, model: str, registry: Registry | None, anew: bool) -> Release:
        """The record, after record and alias were made to agree."""
        store = open_store(self.workspace.models)
        try:
            release = store.release(model)
        except Unreadable:
            if not anew:
                raise
            return Release()
        if release.generation and self.workspace.has_own_registry:
            _point(registry, model, release.stable)
            return release
        alias = registry.champion(model) if registry else None
        if alias is None or alias.version == release.stable or alias.version not in store.versions(model):
            return release
        adopt = partial(release_record.make_stable, version=alias.version)
        return store.change(model, adopt, why="the registry's champion")

    @contextmanager
    def _locked(self, model: str) -> Iterator[None]:
        """One change of record and alias at a time. The kernel releases it when its holder dies."""
        folder = self.workspace.models / model
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".change.lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def answering(workspace: Workspace, model: str) -> int | None:
    """The version with which the workspace's running server answers; None if none runs, or has none."""
    from pergola.serving.client import ClientError

    address = workspace.server().get("grpc")
    if not address:
        return None
    try:
        with _client(address, model) as client:
            return max((one.version for one in client.status() if one.available), default=None)
    except ClientError:
        return None


def wait_until_served(workspace: Workspace, model: str, version: int | None, timeout_s: float = 60.0) -> None:
    """Until the running server, if there is one, answers with this version and no other.

    Raises StepError when it cannot load it; a server that takes longer is only reported.
    """
    from pergola.serving.client import ClientError

    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends and (address := workspace.server().get("grpc")):
        try:
            with _client(address, model) as client:
                found = client.status()
        except ClientError:
            found = ()
        if {one.version for one in found if one.available} == ({version} if version else set()):
            return
        for one in found:
            if one.version == version and one.state == "END" and one.error:
                raise StepError(f"The server at {address} cannot load version {version}: {one.error}")
        time.sleep(0.2)
    if workspace.server():
        log.warning("the server does not answer with version %s of %s yet, see serve.log", version, model)


def _client(address: str, model: str) -> Client:
    """Of the workspace's server, which is on this machine."""
    from pergola.serving.client import NO_RETRY, Client
    from pergola.serving.client.channel import Connection

    connection = Connection(token=os.environ.get(TOKEN_VARIABLE), plain_token=True)
    return Client(address, model=model, timeout_s=2.0, retry=NO_RETRY, connection=connection)


def _live_or_alias(workspace: Workspace, model: str) -> int | None:
    try:
        return live_version(workspace, model)
    except Unreadable as problem:
        alias = champion_of(workspace.tracking_uri, model) if _has_registry(workspace) else None
        said = (
            f"It stays at version {alias.version}, the registry's champion" if alias else "It is not served"
        )
        log.warning("%s %s.", problem, said)
        return alias.version if alias else None


def _has_registry(workspace: Workspace) -> bool:
    path = sqlite_path(workspace.tracking_uri)
    return path is None or path.is_file()


def known(workspace: Workspace, model: str, version: int) -> RegisteredVersion | None:
    """A version as the registry knows it; None if it does not. A SQLite registry is read without MLflow."""
    if not _has_registry(workspace):
        return None
    return version_of(workspace.tracking_uri, model, version)


def _point(registry: Registry | None, model: str, version: int | None) -> None:
    """Move the alias, if the registry has this version; remove it for None."""
    if registry is None:
        return
    if version is None:
        registry.clear_champion(model)
    elif any(found.version == version for found in registry.versions(model)):
        registry.promote(model, version)
