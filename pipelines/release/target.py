"""Where a release is changed: a workspace, or a model store. Both have a release record of the same form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError, StepError
from pergola.components.records import nearest

if TYPE_CHECKING:
    from pergola.components.store.model_store import Store
    from pergola.components.store.release_record import Release
    from pergola.components.workspace import Workspace


@dataclass(frozen=True)
class Target:
    """A store, or a workspace with the store of its published models.

    tracking: of a store's registry, whose alias follows; a workspace has its own.
    """

    store: Store
    workspace: Workspace | None = None
    tracking: str | None = None

    @classmethod
    def of_workspace(cls, root: Path) -> Target:
        """Raises InputError if there is no workspace."""
        from pergola.components.store.model_store import open_store
        from pergola.components.workspace import Workspace

        workspace = Workspace(root)
        workspace.require()
        return cls(open_store(workspace.models), workspace)

    @classmethod
    def of_store(cls, uri: str, tracking: str | None) -> Target:
        """The published models of a workspace are that workspace: its alias follows, too."""
        from pergola.components.store.model_store import open_store

        folder = Path(uri.removeprefix("file://"))
        if not tracking and folder.name == "models" and (folder.parent / "pergola.json").is_file():
            return cls.of_workspace(folder.parent)
        return cls(open_store(uri), tracking=tracking)

    def existing_model(self, model: str | None) -> str:
        """The model of this name, or the only one. Raises InputError if there is none."""
        if model is None:
            return only_model_of(self.store)
        names = self.store.models()
        if model not in names:
            hint = nearest(model, names) if names else " It has none yet: pergola push N."
            raise InputError(f"{self.store.uri} has no model '{model}'.{hint}")
        return model

    def change(
        self,
        model: str,
        change: Callable[[Release], Release],
        *,
        why: str,
        anew: bool = False,
        moves_alias: bool = True,
    ) -> dict[str, Any]:
        """Change the release record; the registry's alias and a running server follow.

        anew: a record that cannot be read counts as empty.  moves_alias: in the registry of a store.
        """
        if self.workspace is not None:
            from pergola.components.release.champions import Champions, wait_until_served

            was, after = Champions(self.workspace, why).change(model, change, anew=anew)
            wait_until_served(self.workspace, model, after.stable)
            return self.described(model, after, changed=after != was)
        before: Release | None = None

        def noted(release: Release) -> Release:
            nonlocal before
            before = release
            return change(release)

        after = self.store.change(model, noted, anew=anew, why=why)
        if self.tracking and after.stable and moves_alias:
            _move_champion(self.tracking, model, after.stable)
        return self.described(model, after, changed=after != before)

    def described(
        self, model: str, release: Release | None = None, *, changed: bool = False
    ) -> dict[str, Any]:
        """A release record as a command prints it. Its history is for `pergola releases`."""
        from pergola.components import records

        plain = records.to_dict(release or self.store.release(model))
        plain.pop("history")
        return {
            "store": self.store.uri, "model": model, **plain,
            "published": self.store.versions(model), "changed": changed,
        }  # fmt: skip


def only_model_of(store: Store) -> str:
    """The name of the only model of a store. Raises InputError if there is none or more than one."""
    names = store.models()
    if not names:
        raise InputError(f"{store.uri} has no published model yet: pergola promote N, or pergola push N.")
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise InputError(f"{store.uri} has {len(names)} models ({known}). Choose one with --model.")
    return names[0]


def _move_champion(tracking: str, model: str, version: int) -> None:
    """Also if the record did not change: the registry may have been unavailable the last time."""
    from pergola.components.release.registry.registry import Registry

    try:
        Registry(tracking).promote(model, version)
    except StepError as error:
        raise StepError(
            f"The release record was written, but MLflow's champion was not. {error} Once it responds, run: "
            f"pergola release stable {version}"
        ) from None
