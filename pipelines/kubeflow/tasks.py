"""Tasks of a run that are not steps of the pipeline. Each function takes a component's arguments."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components import digest, records
from pergola.components.artifacts.data import Manifest
from pergola.components.outside_text import markdown
from pergola.components.release.last_run import LastRun
from pergola.components.release.retrain import RetrainInputs, drifted_checks, due, num_changed, rows_of
from pergola.components.settings import check_model_name, to_toml
from pergola.components.steps import data
from pergola.components.steps.context import Context
from pergola.pipelines.kubeflow import failures, pod, visuals

CHANGED, UNCHANGED = "changed", "unchanged"


def check(given: Mapping[str, Any]) -> tuple[str, str]:
    """All settings as TOML, and a digest of the list of images, which keys the cached scan.

    Raises InputError for an unknown key, an invalid value or an invalid model name, before any work.
    """
    with failures.recorded("check"):
        check_model_name(given["model"])
        context = pod.context_of(given)
        return to_toml(context.settings), data.listing(context)


def tune(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """Shards -> the best [augment], [model] and [train] of a search, and all settings with them, as TOML.

    The search is kept in the workspace: an interrupted one continues, and more trials add to it. The registry
    does not get the trials: a pod that decodes images has no way to it.
    """
    from dataclasses import replace

    from pergola.components.steps import experiments
    from pergola.components.training.search.space import Tuned
    from pergola.components.training.search.tune import TuneSettings

    with failures.recorded("tune"):
        pod.check_refusals([Path(given["shards"].path)])
        context = pod.context_of(given)
        settings, workspace = context.settings, context.workspace
        tuning = experiments.tune(
            Path(given["shards"].path),
            workspace.state(context.model) / "tuning",
            records.from_dict(TuneSettings, given["search"], "parameter search"),
            base=Tuned(settings.augment, settings.model, settings.train),
        )
        best = Tuned(settings.augment, settings.model, settings.train).changed(tuning.best.values)
        Path(given["trials"].path).write_text(visuals.trials(tuning), encoding="utf-8")
        best_settings = replace(settings, augment=best.augment, model=best.model, train=best.train)
    augment, model, train = (_without_nulls(part) for part in (best.augment, best.model, best.train))
    return augment, model, train, to_toml(best_settings)


def changes(given: Mapping[str, Any]) -> str:
    """Whether a run is due: "changed" or "unchanged". The artifact `why` gets the reason."""
    with failures.recorded("changes"):
        state, reason = _changes(Path(given["manifest"].path), given)
        Path(given["why"].path).write_text(markdown(reason) + "\n", encoding="utf-8")
        return state


def _changes(manifest: Path, given: Mapping[str, Any]) -> tuple[str, str]:
    context = pod.context_of(given)
    place = context.workspace.state(context.model)
    if not (place / LastRun.FILE).is_file():
        return CHANGED, f"{context.model} has had no run in this workspace."
    last = LastRun.load(place)
    retrain = records.from_dict(
        type(context.settings.retrain), given["retrain_settings"], "parameter retrain"
    )
    found = due(_facts(manifest, given["settings"], context, last), retrain)
    if found.fire:
        return CHANGED, found.reason
    number = f" as version {last.version}" if last.version else ""
    return UNCHANGED, f"{found.reason} The last run was {last.decision}{number}."


def _facts(manifest: Path, settings: str, context: Context, last: LastRun) -> RetrainInputs:
    found, rows = Manifest.load(manifest), context.workspace.state(context.model) / LastRun.ROWS
    changed = 0
    if last.fingerprint != found.fingerprint:
        changed = num_changed(np.load(rows), rows_of(manifest)) if rows.is_file() else found.num_rows
    ended = time.time() - last.ended_s if last.ended_s else None
    return RetrainInputs(
        num_changed=changed,
        classes_before=last.labels,
        classes_now=found.labels,
        settings_changed=last.settings != digest.of_data(tomllib.loads(settings)),
        drifted_checks=drifted_checks(context.workspace, context.model, last.ended_s),
        age_days=None if ended is None else ended / 86_400,
        hours_since_run=None if ended is None else ended / 3600,
    )


def _without_nulls(settings: Any) -> dict[str, Any]:
    """Without null values, which Kubeflow does not accept in a struct."""
    return {key: value for key, value in records.to_dict(settings).items() if value is not None}
