"""Steps of a pipeline as a pod runs them: one, or a group of them one after the other.

What outlives a pod has its place in the workspace, a volume; see components/workspace.py. A component that
components.py makes calls `run` with its own arguments; nothing here needs Kubeflow.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pergola.components import digest, records
from pergola.components.artifacts.decision import Decision
from pergola.components.errors import InputError
from pergola.components.settings import Settings, from_toml
from pergola.components.steps.context import Context, RunInfo
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import Parts, Pipeline, Step
from pergola.pipelines.kubeflow import failures, visuals

STORE_VARIABLE, TRACKING_VARIABLE = "PERGOLA_STORE", "MLFLOW_TRACKING_URI"
REFUSED, SKIPPED = "refused.txt", "skipped.txt"  # in the folder of an artifact that was not made
SUFFIX = "_settings"  # of a component's parameter with one section

log = logging.getLogger(__name__)


def run(place: str, steps: Sequence[str], given: Mapping[str, Any]) -> str:
    """Run steps of the pipeline at `place`, "module:attribute"; gives the decision where one was made.

    given: a component's arguments: `dataset`, `model`, `workspace`, settings as TOML in `settings` or a
    struct a section, and artifacts by name.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pipeline, context = _pipeline(place), context_of(given)
    lines = ["| step | seconds | result |", "|---|---|---|"]
    refusal = ""
    for name in steps:
        step = pipeline.by_name[name]
        out = folder_of(given[step.output].path)
        inputs = {name: Path(given[name].path) for name in step.inputs}
        if refusal or not _applies(step, given):
            records.write_atomic(
                out / (REFUSED if refusal else SKIPPED), refusal or "the model was not accepted"
            )
            continue
        begin = time.monotonic()
        try:
            _check_refusals(inputs)
            _do(step, context, out, inputs)
        except Exception as error:
            failures.note(name, error)
            if not (step.refuses and len(steps) > 1 and isinstance(error, InputError)):
                raise
            refusal = str(error)  # the next task fails with it: this one has pages to show
            records.write_atomic(out / REFUSED, refusal)
            continue
        seconds = time.monotonic() - begin
        summary = step.describe(out).split("\n")[0]
        log.info("step=%s seconds=%.1f %s", name, seconds, summary)
        lines.append(f"| {name} | {seconds:.1f} | {visuals.cell(summary)} |")
        visuals.show(name, out, given)
    if "steps" in given:
        Path(given["steps"].path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _verdict(given) if "gate" in steps else ""


def run_part(place: str, name: str, given: Mapping[str, Any]) -> None:
    """One of several parts of a step's work, as `index` and `count` say."""
    step = _pipeline(place).by_name[name]
    inputs = {name: Path(given[name].path) for name in step.inputs}
    with failures.noted(f"{name}, part {int(given['index']) + 1}"):
        _check_refusals(inputs)
        context = step.context(context_of(given))
        _parts(step).part(context, folder_of(given["part"].path), **inputs, index=int(given["index"]),
                          count=int(given["count"]))  # fmt: skip


def merge_parts(place: str, name: str, given: Mapping[str, Any]) -> None:
    """All parts of a step's work -> its artifact."""
    step = _pipeline(place).by_name[name]
    inputs = {name: Path(given[name].path) for name in step.inputs}
    out = folder_of(given[step.output].path)
    with failures.noted(f"{name}, merging"):
        _parts(step).merge(
            step.context(context_of(given)), out, [Path(p.path) for p in given["parts"]], **inputs
        )
    visuals.show(name, out, given)


def _parts(step: Step) -> Parts:
    if step.parts is None:
        raise ValueError(f"Step {step.name} is not done in parts.")
    return step.parts


def context_of(given: Mapping[str, Any]) -> Context:
    """What steps use besides their inputs, from a component's arguments."""
    return Context(
        dataset=Path(given["dataset"]),
        model=given["model"],
        settings=_settings(given),
        workspace=workspace_of(given["workspace"]),
        run=RunInfo(os.environ.get(failures.RUN_VARIABLE, "")),
        store=given.get("store") or os.environ.get(STORE_VARIABLE, ""),
        make_stable=bool(given.get("release")),
        asked_settings=given.get("asked_settings", ""),
    )


def workspace_of(path: str) -> Workspace:
    """The workspace on its volume; its registry is the server that the environment names, if it does."""
    return Workspace(Path(path), os.environ.get(TRACKING_VARIABLE, ""))


def folder_of(path: str) -> Path:
    """An artifact's folder, made."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pipeline(place: str) -> Pipeline:
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Pipeline):
        raise InputError(f"There is no pipeline at {place}.")
    return found


def _settings(given: Mapping[str, Any]) -> Settings:
    if text := given.get("settings"):
        return from_toml(text)
    sections = {name.removesuffix(SUFFIX): value for name, value in given.items() if name.endswith(SUFFIX)}
    return Settings.of(sections, "parameter ")


def _applies(step: Step, given: Mapping[str, Any]) -> bool:
    return not step.if_accepted or "decision" not in given or _verdict(given) == "accepted"


def _verdict(given: Mapping[str, Any]) -> str:
    folder = Path(given["decision"].path)
    if not (folder / Decision.FILE).is_file():
        return ""
    return "accepted" if Decision.load(folder).accepted else "rejected"


def _check_refusals(inputs: Mapping[str, Path]) -> None:
    for folder in inputs.values():
        if (folder / REFUSED).is_file():
            raise InputError((folder / REFUSED).read_text(encoding="utf-8"))


def _do(step: Step, context: Context, out: Path, inputs: Mapping[str, Path]) -> None:
    limited = step.context(context)
    if step.check:
        step.check(limited, inputs)
    if step.resumes:
        _resumed(step, context, out, inputs)
    else:
        step.function(limited, out, **inputs)


def _resumed(step: Step, context: Context, out: Path, inputs: Mapping[str, Path]) -> None:
    """A step that continues: it works in the workspace, where a pod that takes over finds what there is."""
    work = context.workspace.state(context.model) / f"{step.name}-{resume_key(step, context, inputs)}"
    work.mkdir(parents=True, exist_ok=True)
    step.function(step.context(context), work, **inputs)
    shutil.copytree(work, out, dirs_exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def resume_key(step: Step, context: Context, inputs: Mapping[str, Path]) -> str:
    """By which work that was cut off is found again: equal inputs, settings and code."""
    from pergola.pipelines.local.engine import settings_of

    found = {name: digest.of_folder(folder) for name, folder in inputs.items()}
    return digest.of_data([found, dict(settings_of(step, context)), step.code_digest()])[:20]
