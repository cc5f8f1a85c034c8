"""`pergola retrain`: a run if there is a reason for one, for use with a timer.

components/release/retrain.py decides; this module collects the inputs of the decision.
"""

from __future__ import annotations

import calendar
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.artifacts.data import Manifest
from pergola.components.data.sources.source import open_source
from pergola.components.release.champions import live_version
from pergola.components.release.retrain import RetrainInputs, drifted_checks, due, num_changed, rows_of
from pergola.components.settings import Settings
from pergola.components.workspace import Workspace
from pergola.pipelines.local import run as local
from pergola.pipelines.local import runs
from pergola.pipelines.local.progress import Display
from pergola.pipelines.local.result import RunResult
from pergola.pipelines.monitoring import feedback


@dataclass(frozen=True)
class RetrainResult:
    """Whether there was a run, the reason, and its outcome."""

    trained: bool
    reason: str
    run: RunResult | None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "trained": self.trained,
            "reason": self.reason,
            "run": self.run.to_json() if self.run else None,
        }

    def summary(self) -> str:
        """The summary of the run, or why there was none."""
        return self.run.summary() if self.run else f"Not trained. {self.reason}"


def retrain(
    dataset: Path,
    settings: Settings,
    workspace: Workspace,
    *,
    use_feedback: bool = True,
    show: Display,
    command: str = "",
) -> RetrainResult:
    """Run the pipeline if images, drift or age require it; otherwise return the reason why not.

    use_feedback: add the requests that were labelled by `pergola feedback` to the data set.
    Raises what `local.run` raises.
    """
    model = local.model_name(dataset.expanduser().absolute(), settings)
    if use_feedback:
        settings = with_feedback(settings, workspace, model)
    decision = due(_inputs(dataset, settings, workspace, model, show), settings.retrain)
    show.line(f"{'Training' if decision.fire else 'Not training'}: {decision.reason}")
    if not decision.fire:
        return RetrainResult(False, decision.reason, None)
    result = local.run(dataset, settings, workspace, show=show, command=command, reason=decision.reason)
    return RetrainResult(True, decision.reason, result)


def with_feedback(settings: Settings, workspace: Workspace, model: str) -> Settings:
    """The settings, with the requests that were labelled by `pergola feedback`, if there are any."""
    labelled = workspace.feedback(model) / feedback.LIST
    if settings.scan.also or not labelled.is_file():
        return settings
    return dataclasses.replace(settings, scan=dataclasses.replace(settings.scan, also=str(labelled)))


def _inputs(
    dataset: Path, settings: Settings, workspace: Workspace, model: str, show: Display
) -> RetrainInputs:
    manifest = local.scan(dataset, settings, workspace, show=show)
    last = _last_run(workspace, dataset.expanduser().absolute())
    if last is None:
        return RetrainInputs(None)
    before = workspace.steps / "scan" / last["steps"]["scan"]["key"]
    ended_s = _seconds(last["ended"])
    now = time.time()
    return RetrainInputs(
        num_changed=_num_changed(before, manifest),
        classes_before=Manifest.load(before).labels if (before / Manifest.FILE).is_file() else (),
        classes_now=Manifest.load(manifest).labels,
        settings_changed=_plain(last["settings"]) != _plain(records.to_dict(settings.of_a_run())),
        newest_minutes=_newest_minutes(dataset, settings, workspace, now),
        drifted_checks=drifted_checks(workspace, model, ended_s),
        age_days=_age_days(workspace, model, now),
        hours_since_run=(now - ended_s) / 3600,
    )


def _num_changed(before: Path, now: Path) -> int:
    manifest = Manifest.load(now)
    if not (before / Manifest.FILE).is_file():
        return manifest.num_rows
    if Manifest.load(before).fingerprint == manifest.fingerprint:
        return 0
    return num_changed(rows_of(before), rows_of(now))


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Without the path of additional images: these count as changed images."""
    scan = {key: value for key, value in settings.get("scan", {}).items() if key != "also"}
    return {**settings, "scan": scan}


def _newest_minutes(dataset: Path, settings: Settings, workspace: Workspace, now: float) -> float | None:
    if not settings.retrain.quiet_minutes:
        return None
    source = open_source(dataset.expanduser().absolute(), settings.scan, workspace.scratch)
    newest = max((max(entry.stamp[1:]) for entry in source.entries()), default=0)
    return max(0.0, (now - newest / 1e9) / 60)


def _age_days(workspace: Workspace, model: str, now: float) -> float | None:
    """Days since the run that trained the champion."""
    live = live_version(workspace, model)
    wanted = (model, live) if live else None
    for run in reversed(workspace.run_ids()):
        record = workspace.run_record(run)
        result = record.get("result") or {}
        made = "register" not in result.get("reused", ())
        if made and (result.get("model"), result.get("version")) == wanted:
            return (now - _seconds(record["ended"])) / 86_400
    return None


def _last_run(workspace: Workspace, dataset: Path) -> dict[str, Any] | None:
    """The last finished run on this data set that did not reproduce a version."""
    for run in reversed(workspace.run_ids()):
        record = workspace.run_record(run)
        if record.get("like") or record.get("state") != runs.DONE:
            continue
        if record.get("source") == str(dataset):
            return record
    return None


def _seconds(utc: str) -> float:
    return float(calendar.timegm(time.strptime(utc, "%Y-%m-%dT%H:%M:%SZ")))
