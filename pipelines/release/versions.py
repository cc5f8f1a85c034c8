"""`pergola versions`: registered and published versions, and the champion of each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError
from pergola.components.records import nearest
from pergola.pipelines.release.resolve import model_names
from pergola.serving.wire.signature import is_signed

if TYPE_CHECKING:
    from pergola.components.release.versions import RegisteredVersion
    from pergola.components.workspace import Workspace


def versions(workspace: Workspace, model: str | None = None) -> dict[str, Any]:
    """{"models": [{"model", "champion", "versions": [{"version", "champion", "published", "damage", …}]}]}.

    signed: whether it has a signature, which is not verified here.
    damage: what is wrong with the published files, all of which are read; empty if nothing is. A published
    version that the registry does not know has the status "unknown".
    Raises InputError if there is no workspace or no such model.
    """
    workspace.require()
    registered = _registered(workspace)
    names = sorted({*registered, *model_names(workspace)})
    if model is not None and model not in names:
        raise InputError(f"There is no model '{model}' in {workspace.root}.{nearest(model, names)}")
    found = []
    for name in (model,) if model else names:
        rows = _rows(workspace, name, registered.get(name, {}))
        champion = next((row["version"] for row in rows if row["champion"]), None)
        found.append({"model": name, "champion": champion, "versions": rows})
    return {"models": found}


def repair(workspace: Workspace, model: str | None, report: Callable[[str], None]) -> None:
    """Set damaged versions aside and publish them again; register what the registry lost.

    Raises InputError when a run or another repair goes on, StepError when the registry cannot be used.
    """
    from pergola.components.release import repair as repairing
    from pergola.components.store.publish import published

    found = versions(workspace, model)
    with workspace.lock("a repair"):
        for entry in found["models"]:
            name = entry["model"]
            repairing.restore_registry(workspace, name)
            lost = [row["version"] for row in entry["versions"] if _is_lost(row)]
            for number in sorted({*published(workspace.models, name), *lost}, reverse=True):
                if said := repairing.repair(workspace, name, number):
                    report(said)


def table(found: dict[str, Any]) -> str:
    """One line per version, newest first."""
    lines = []
    for model in found["models"]:
        lines.append(model["model"])
        for row in model["versions"]:
            marks = [row["status"]] + ["champion"] * row["champion"]
            if row["published"]:
                marks.append("signed" if row["signed"] else "unsigned")
            if _is_lost(row):
                marks.append("folder is missing")
            if row["damage"]:
                marks.append(f"damaged: {row['damage']}")
            if row["status"] == UNKNOWN:
                marks.append("not in the registry")
            lines.append(f"  {row['version']:>4}  {', '.join(marks)}")
    if any(_needs_repair(row) for model in found["models"] for row in model["versions"]):
        lines.append("`pergola versions --repair` sets damaged versions aside and publishes them again.")
    return "\n".join(lines) or "No model is registered yet. Train one with `pergola run DATASET`."


UNKNOWN = "unknown"


def _registered(workspace: Workspace) -> dict[str, dict[int, RegisteredVersion]]:
    """Versions by model and number; empty without a registry, which is not made by looking."""
    from pergola.components.release.registry import Registry, sqlite_path

    path = sqlite_path(workspace.tracking_uri)
    if path is not None and not path.is_file():
        return {}
    registry = Registry(workspace.tracking_uri)
    return {name: {v.version: v for v in registry.versions(name)} for name in registry.models()}


def _rows(
    workspace: Workspace, name: str, registered: Mapping[int, RegisteredVersion]
) -> list[dict[str, Any]]:
    from pergola.components.store.publish import damage_of, published

    folders = published(workspace.models, name)
    rows = []
    for number in sorted({*registered, *folders}, reverse=True):
        version, folder = registered.get(number), workspace.models / name / str(number)
        sha256 = version.sha256 if version else ""
        rows.append(
            {
                "version": number,
                "champion": bool(version and version.champion),
                "published": number in folders,
                "status": version.status if version else UNKNOWN,
                "run": version.run if version else "",
                "sha256": sha256,
                "damage": damage_of(folder, sha256) if number in folders else "",
                "signed": is_signed(folder),
            }
        )
    return rows


def _is_lost(row: Mapping[str, Any]) -> bool:
    return bool(row["status"] == "published" and not row["published"])


def _needs_repair(row: Mapping[str, Any]) -> bool:
    return bool(row["damage"]) or _is_lost(row) or bool(row["status"] == UNKNOWN)
