"""Whether it is time to train anew: because of new images, drift or age, and not too eagerly.

A pure decision on facts. `pergola retrain` and the pipeline "retraining" gather the facts, each in its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pergola.components.records import setting

Rows = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class RetrainSettings:
    """When a model is trained anew."""

    min_images: int = setting(
        1, "fewer new, changed or missing images wait for more", low=1, was="min_pictures"
    )
    quiet_minutes: float = setting(
        0.0, "wait while the newest image is younger: a copy may be going on", low=0, high=10_080
    )
    drift_looks: int = setting(1, "looks in a row that must have found drift", low=1, high=100)
    max_age_days: float = setting(0.0, "older models are trained anew (0: none is too old)", low=0)
    min_hours: float = setting(1.0, "hours between two trainings for drift or age alone", low=0)


@dataclass(frozen=True)
class Facts:
    """What is known of a model when it is asked about. Unknown is None."""

    num_changed: int | None  # images that came, went or changed since the last run; None: no run yet
    settings_changed: bool = False
    newest_minutes: float | None = None  # since the last image came
    drifted_looks: int = 0  # looks in a row, up to now, that found drift; 0 once a run came after them
    age_days: float | None = None  # of the model
    hours_since_run: float | None = None


@dataclass(frozen=True)
class Due:
    """Whether to train, and why or why not, in words."""

    fire: bool
    reason: str


def due(facts: Facts, settings: RetrainSettings) -> Due:
    """Decide. Images that are still arriving stop everything; small changes and haste wait."""
    if facts.num_changed is None:
        return Due(True, "There has been no run on these images yet.")
    if _arriving(facts, settings):
        return Due(
            False,
            f"{_images(facts.num_changed)} changed, the last {facts.newest_minutes:.0f} minutes ago: more "
            f"may be coming, so this waits for {settings.quiet_minutes:g} quiet minutes "
            "(retrain.quiet_minutes).",
        )
    fires, waits = _pressing(facts, settings)
    reasons = _changes(facts, settings) + fires
    if reasons:
        return Due(True, " ".join(reasons) + _same_again(facts))
    return Due(False, " ".join([_nothing(facts, settings), *waits]))


def rows_of(manifest_folder: Path) -> Rows:
    """A number for each row of a manifest, sorted, of its path, label, given part and content."""
    import pandas as pd

    from pergola.components.artifacts.data import Manifest

    table = Manifest.table(manifest_folder, ["path", "label", "given_split", "id"])
    hashed = pd.util.hash_pandas_object(table.fillna(""), index=False)
    return np.unique(hashed.to_numpy(np.uint64))


def num_changed(before: Rows, now: Rows) -> int:
    """Images that came, went or changed. One that was moved or labelled anew counts once."""
    came, went = np.setdiff1d(now, before), np.setdiff1d(before, now)
    return max(len(came), len(went))


def _arriving(facts: Facts, settings: RetrainSettings) -> bool:
    newest = facts.newest_minutes
    return bool(facts.num_changed) and newest is not None and newest < settings.quiet_minutes


def _changes(facts: Facts, settings: RetrainSettings) -> list[str]:
    found = []
    if (facts.num_changed or 0) >= settings.min_images:
        found.append(f"{_images(facts.num_changed)} changed since the last run.")
    if facts.settings_changed:
        found.append("The settings changed since the last run.")
    return found


def _pressing(facts: Facts, settings: RetrainSettings) -> tuple[list[str], list[str]]:
    """What drift and age ask for, and what has to wait because a run was only just."""
    asked = []
    if facts.drifted_looks >= settings.drift_looks:
        looks = "look" if facts.drifted_looks == 1 else f"{facts.drifted_looks} looks"
        asked.append(f"The last {looks} at requests found drift.")
    if settings.max_age_days and (facts.age_days or 0) >= settings.max_age_days:
        asked.append(f"The model is {facts.age_days:.1f} days old, {settings.max_age_days:g} are allowed.")
    rested = facts.hours_since_run is None or facts.hours_since_run >= settings.min_hours
    if rested:
        return asked, []
    wait = f"The last run was {facts.hours_since_run:.1f} hours ago, {settings.min_hours:g} are wanted."
    return [], [*asked, wait] if asked else []


def _same_again(facts: Facts) -> str:
    if facts.num_changed or facts.settings_changed:
        return ""
    return (
        " Images and settings are those of the last run, so the model will be the same one: new images "
        "help, such as requests with true labels (pergola feedback)."
    )


def _nothing(facts: Facts, settings: RetrainSettings) -> str:
    if facts.num_changed:
        return (
            f"{_images(facts.num_changed)} changed since the last run, {settings.min_images} are wanted "
            "(retrain.min_images)."
        )
    return "Nothing changed: images and settings are those of the last run."


def _images(count: int | None) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
