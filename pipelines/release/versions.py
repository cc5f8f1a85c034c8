"""`pergola versions`: registered and published versions, the champion of each model, and what answers now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError
from pergola.components.formatting import percent, percent_interval
from pergola.components.records import nearest
from pergola.pipelines.release.resolve import model_names
from pergola.serving.wire.signature import is_signed

if TYPE_CHECKING:
    from pergola.components.release.registry.versions import RegisteredVersion
    from pergola.components.workspace import Workspace

UNKNOWN = "unknown"


def versions(workspace: Workspace, model: str | None = None) -> dict[str, Any]:
    """{"models": [{"model", "champion", "answers", "versions": [{"version", "champion", "outcome",
    "accuracy", "interval", "date", "published", "status", "run", "sha256", "damage",
    "signed"}]}]}, newest first.

    answers: the version with which the workspace's server answers; None if none runs.
    signed: whether it has a signature, which is not verified here.
    damage: what is wrong with the published files, all of which are read; empty if nothing is. A published
    version that the registry does not know has the status "unknown".
    Raises InputError if there is no workspace or no such model.
    """
    from pergola.components.release.champions import Champions, answering, live_version

    workspace.require()
    registered = _registered(workspace)
    names = sorted({*registered, *model_names(workspace)})
    if model is not None and model not in names:
        raise InputError(f"There is no model '{model}' in {workspace.root}.{nearest(model, names)}")
    found = []
    for name in (model,) if model else names:
        Champions(workspace).settle(name)
        live = live_version(workspace, name)
        rows = _rows(workspace, name, registered.get(name, {}), live)
        found.append(
            {"model": name, "champion": live, "answers": answering(workspace, name), "versions": rows}
        )
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
        answers = model["answers"]
        lines.append(model["model"] + (f" (the server answers with version {answers})" if answers else ""))
        lines.append(f"{'version':>9}  {'date':<10}  {'test accuracy':<25}  status")
        lines += [_line(row) for row in model["versions"]]
    if any(_needs_repair(row) for model in found["models"] for row in model["versions"]):
        lines.append("`pergola versions --repair` sets damaged versions aside and publishes them again.")
    return "\n".join(lines) or "No model is registered yet. Train one with `pergola run DATASET`."


def _registered(workspace: Workspace) -> dict[str, dict[int, RegisteredVersion]]:
    """Versions by model and number; empty without a registry, which is not made by looking."""
    from pergola.components.release.registry.connection import sqlite_path
    from pergola.components.release.registry.registry import Registry

    path = sqlite_path(workspace.tracking_uri)
    if path is not None and not path.is_file():
        return {}
    registry = Registry(workspace.tracking_uri)
    return {name: {v.version: v for v in registry.versions(name)} for name in registry.models()}


def _rows(
    workspace: Workspace, name: str, registered: Mapping[int, RegisteredVersion], live: int | None
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
                "champion": number == live,
                **_measured(workspace, name, number),
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


def _line(row: Mapping[str, Any]) -> str:
    accuracy = ""
    if row["accuracy"] is not None:
        accuracy = f"{percent(row['accuracy'])} ({percent_interval(row['interval'] or (0.0, 1.0))})"
    marks = ["champion"] if row["champion"] else [row["status"]]
    marks += [row["outcome"]] if row["outcome"] == "held" else []
    if row["published"]:
        marks.append("signed" if row["signed"] else "unsigned")
    if _is_lost(row):
        marks.append("folder is missing")
    if row["damage"]:
        marks.append(f"damaged: {row['damage']}")
    if row["status"] == UNKNOWN:
        marks.append("not in the registry")
    return f"{row['version']:>9}  {row['date'] or '':<10}  {accuracy:<25}  {', '.join(marks)}"


def _measured(workspace: Workspace, model: str, version: int) -> dict[str, Any]:
    """Outcome of the gate, accuracy on the test split with its 95% interval, and the day of registration."""
    from pergola.components.artifacts.decision import Decision
    from pergola.components.artifacts.evaluation import Evaluation
    from pergola.components.release.provenance import Provenance

    place = workspace.version(model, version)
    if not (place / Provenance.FILE).is_file():
        return {"outcome": None, "accuracy": None, "interval": None, "date": None}
    evaluation = Evaluation.load(place)
    interval = evaluation.intervals.get("accuracy")
    return {
        "outcome": Decision.load(place).outcome,
        "accuracy": evaluation.accuracy,
        "interval": list(interval) if interval else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime(Provenance.load(place).released_s)),
    }
