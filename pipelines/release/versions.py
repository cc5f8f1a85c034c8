"""`pergola versions`: registered and published versions, and the champion of each model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError
from pergola.components.records import nearest

if TYPE_CHECKING:
    from pergola.components.workspace import Workspace


def versions(workspace: Workspace, model: str | None = None) -> dict[str, Any]:
    """{"models": [{"model", "champion", "versions": [{"version", "champion", "published", "status", …}]}]}.

    Raises InputError if there is no workspace or no such model.
    """
    from pergola.components.release.registry import Registry
    from pergola.components.store.publish import published

    workspace.require()
    if not (workspace.root / "mlflow.db").is_file():
        return {"models": []}
    registry = Registry(workspace.tracking_uri)
    names = registry.models()
    if model is not None and model not in names:
        raise InputError(f"There is no model '{model}' in {workspace.root}.{nearest(model, names)}")
    found = []
    for name in (model,) if model else names:
        folders = published(workspace.models, name)
        rows = [
            {
                "version": version.version,
                "champion": version.champion,
                "published": version.version in folders,
                "status": version.status,
                "run": version.run,
                "sha256": version.sha256,
            }
            for version in registry.versions(name)
        ]
        champion = next((row["version"] for row in rows if row["champion"]), None)
        found.append({"model": name, "champion": champion, "versions": rows})
    return {"models": found}


def table(found: dict[str, Any]) -> str:
    """One line per version, newest first."""
    lines = []
    for model in found["models"]:
        lines.append(model["model"])
        for row in model["versions"]:
            marks = [row["status"]] + ["champion"] * row["champion"]
            if row["status"] == "published" and not row["published"]:
                marks.append("folder is missing")
            lines.append(f"  {row['version']:>4}  {', '.join(marks)}")
    return "\n".join(lines) or "No model is registered yet. Train one with `pergola run DATASET`."
