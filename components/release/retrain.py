"""Whether to retrain: because of new images, drift or age, and not too often.

`due` is a pure decision. `pergola retrain` and the pipeline "retraining" collect the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pergola.components import formatting
from pergola.components.records import setting
from pergola.components.workspace import Workspace

Rows = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RetrainSettings:
    """When a model is retrained."""

    min_images: int = setting(
        1, "new, changed or removed images that trigger a retraining", low=1, was="min_pictures"
    )
    quiet_minutes: float = setting(
        0.0, "wait while the newest image is younger: a copy may be in progress", low=0, high=10_080
    )
    drift_checks: int = setting(
        1, "drift checks in a row that must have found drift", low=1, high=100, was="drift_looks"
    )
    max_age_days: float = setting(0.0, "older models are retrained (0: no limit)", low=0)
    min_hours: float = setting(1.0, "hours between two retrainings for drift or age alone", low=0)


@dataclass(frozen=True)
class RetrainInputs:
    """What is known about a model. None: unknown."""

    num_changed: int | None  # images added, removed or changed since the last run; None: no run yet
    settings_changed: bool = False
    classes_before: tuple[str, ...] = ()  # of the last run; empty: unknown
    classes_now: tuple[str, ...] = ()
    newest_minutes: float | None = None  # since the last image arrived
    drifted_checks: int = 0  # latest drift checks in a row that found drift; 0 after a newer run
    age_days: float | None = None  # of the model
    hours_since_run: float | None = None


@dataclass(frozen=True)
class Due:
    """Whether to retrain, and why."""

    fire: bool
    reason: str


def due(inputs: RetrainInputs, settings: RetrainSettings) -> Due:
    """Decide whether to retrain. Waits while images are arriving, changes are few or a run is recent."""
    if inputs.num_changed is None:
        return Due(True, "There is no run on these images yet.")
    if _arriving(inputs, settings):
        return Due(
            False,
            f"{_images(inputs)} changed, the last {inputs.newest_minutes:.0f} minutes ago. More may "
            f"follow: waiting until no image arrived for {settings.quiet_minutes:g} minutes "
            "(retrain.quiet_minutes).",
        )
    fires, waits = _pressing(inputs, settings)
    reasons = _changes(inputs, settings) + fires
    if reasons:
        return Due(True, " ".join(reasons) + _same_again(inputs))
    return Due(False, " ".join([_nothing(inputs, settings), *waits]))


def rows_of(manifest_folder: Path) -> Rows:
    """A sorted hash of each row of a manifest: path, label, given split and content."""
    import pandas as pd

    from pergola.components.artifacts.data import Manifest

    table = Manifest.table(manifest_folder, ["path", "label", "given_split", "id"])
    hashed = pd.util.hash_pandas_object(table.fillna(""), index=False)
    return np.unique(hashed.to_numpy(np.uint64))


def num_changed(before: Rows, now: Rows) -> int:
    """Images added, removed or changed. A moved or relabelled image counts once."""
    came, went = np.setdiff1d(now, before), np.setdiff1d(before, now)
    return max(len(came), len(went))


def _arriving(inputs: RetrainInputs, settings: RetrainSettings) -> bool:
    newest = inputs.newest_minutes
    return bool(inputs.num_changed) and newest is not None and newest < settings.quiet_minutes


def _changes(inputs: RetrainInputs, settings: RetrainSettings) -> list[str]:
    found = []
    if (inputs.num_changed or 0) >= settings.min_images:
        found.append(f"{_images(inputs)} changed since the last run.{_classes(inputs)}")
    if inputs.settings_changed:
        found.append("The settings changed since the last run.")
    return found


def _classes(inputs: RetrainInputs) -> str:
    """Which class came or went; a missing one is more often a missing folder than meant."""
    if not inputs.classes_before:
        return ""
    came = sorted({*inputs.classes_now} - {*inputs.classes_before})
    went = sorted({*inputs.classes_before} - {*inputs.classes_now})
    text = f" New classes: {', '.join(came)}." if came else ""
    if went:
        text += (
            f" Classes that are gone: {', '.join(went)}. The gate rejects a model without them, unless "
            "release.allow_contract_changes is set: check that no folder is missing."
        )
    return text


def _pressing(inputs: RetrainInputs, settings: RetrainSettings) -> tuple[list[str], list[str]]:
    """Reasons to retrain by drift and age; the second list if they must wait since the last run is recent."""
    asked = []
    if inputs.drifted_checks >= settings.drift_checks:
        checks = "check" if inputs.drifted_checks == 1 else f"{inputs.drifted_checks} checks"
        asked.append(f"The last {checks} of requests found drift.")
    if settings.max_age_days and (inputs.age_days or 0) >= settings.max_age_days:
        asked.append(f"The model is {inputs.age_days:.1f} days old; the limit is {settings.max_age_days:g}.")
    rested = inputs.hours_since_run is None or inputs.hours_since_run >= settings.min_hours
    if rested:
        return asked, []
    wait = (
        f"The last run was {inputs.hours_since_run:.1f} hours ago; at least {settings.min_hours:g} must pass."
    )
    return [], [*asked, wait] if asked else []


def _same_again(inputs: RetrainInputs) -> str:
    if inputs.num_changed or inputs.settings_changed:
        return ""
    return (
        " Images and settings are those of the last run, so the model will be the same one. Add new images, "
        "such as requests with true labels (pergola feedback)."
    )


def _nothing(inputs: RetrainInputs, settings: RetrainSettings) -> str:
    if inputs.num_changed:
        return (
            f"{_images(inputs)} changed since the last run; at least {settings.min_images} are needed "
            "(retrain.min_images)."
        )
    return "Nothing changed: images and settings are those of the last run."


def _images(inputs: RetrainInputs) -> str:
    return formatting.count(inputs.num_changed or 0, "image")


def drifted_checks(workspace: Workspace, model: str, ended_s: float) -> int:
    """How many of the champion's latest drift checks in a row found drift; 0 if a run followed them.

    ended_s: when the last run ended, in seconds since 1970.
    """
    if not (workspace.root / "drift" / model).is_dir():
        return 0
    from pergola.components.evaluation.drift.history import DriftHistory
    from pergola.components.release.champions import live_version

    live = live_version(workspace, model)
    history = DriftHistory.of(workspace.drift(model, live)) if live else DriftHistory()
    return history.drifted if history.checks and history.checks[-1].at_s >= ended_s else 0
