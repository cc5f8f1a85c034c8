"""Runs steps of a pipeline in a pod: one step, or a group of steps one after the other.

A component that components.py makes calls `run` with its own arguments; nothing here needs Kubeflow. What
outlives a pod is kept in the workspace, which is a volume, see components/workspace.py.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pergola.components import digest, records
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError
from pergola.components.outside_text import markdown
from pergola.components.settings import Settings, from_toml
from pergola.components.steps.context import Context, RunInfo
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import Parts, Pipeline, Step
from pergola.pipelines.kubeflow import failures, visuals

STORE_VARIABLE, TRACKING_VARIABLE = "PERGOLA_STORE", "MLFLOW_TRACKING_URI"
SKIPPED = "skipped.txt"  # in the folder of an artifact that is not made with the outcome of the gate
SERVER = "pergola.serving.server.app"  # in the code of steps that use a model server
SUFFIX = "_settings"  # of a component's parameter that holds one section

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal(Record):
    """In the folders of artifacts that were not made because a step refused its inputs.

    The task itself succeeds, so that Kubeflow keeps its pages; the next task fails with the reason.
    """

    FILE: ClassVar[str] = "refused.json"

    step: str
    reason: str


def run(place: str, steps: Sequence[str], given: Mapping[str, Any]) -> str:
    """Run steps of the pipeline at `place`, "module:attribute"; gives the verdict of the gate, if it ran.

    given: a component's arguments: `dataset`, `model`, `workspace`, the settings (as TOML in `settings`, or
    one struct per section), and artifacts by name.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pipeline, context = _pipeline(place), context_of(given)
    chosen = [pipeline.by_name[name] for name in steps]
    lines = ["| step | seconds | result |", "|---|---|---|"]
    refusal: Refusal | None = None
    with _started_server(chosen, context, given) as context:
        for step in chosen:
            begin = time.monotonic()
            result, refusal = _result(step, context, given, refusal, is_alone=len(chosen) == 1)
            seconds = time.monotonic() - begin
            log.info("step=%s seconds=%.1f %s", step.name, seconds, result)
            lines.append(f"| {step.name} | {seconds:.1f} | {markdown(result)} |")
    if "steps" in given:
        Path(given["steps"].path).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _outcome(given) if any(step.output == "decision" for step in chosen) else ""


def run_part(place: str, name: str, given: Mapping[str, Any]) -> None:
    """Run one part of a step's work: part `index` of `count`."""
    step = _pipeline(place).by_name[name]
    inputs = _inputs(step, given)
    with failures.recorded(f"{name}, part {int(given['index']) + 1}"):
        check_refusals(inputs.values())
        context = step.context(context_of(given))
        _parts(step).part(context, folder_of(given["part"].path), **inputs, index=int(given["index"]),
                          count=int(given["count"]))  # fmt: skip


def merge_parts(place: str, name: str, given: Mapping[str, Any]) -> None:
    """Merge all parts of a step's work into its artifact."""
    step = _pipeline(place).by_name[name]
    inputs = _inputs(step, given)
    out = folder_of(given[step.output].path)
    with failures.recorded(f"{name}, merging"):
        _parts(step).merge(
            step.context(context_of(given)), out, [Path(p.path) for p in given["parts"]], **inputs
        )
    visuals.show(name, out, given)


def _inputs(step: Step, given: Mapping[str, Any]) -> dict[str, Path]:
    return {name: Path(given[name].path) for name in step.inputs}


@contextmanager
def _started_server(steps: Sequence[Step], context: Context, given: Mapping[str, Any]) -> Iterator[Context]:
    """The context with a model server, if one of the steps uses it: it loads TensorFlow while others work."""
    if not any(SERVER in step.code and _applies(step, given) for step in steps):
        yield context
        return
    from pergola.components.release.smoke_test import SmokeTestServer

    with SmokeTestServer(context.settings.smoke_test) as server:
        server.start()
        yield replace(context, server=server)


def _result(
    step: Step, context: Context, given: Mapping[str, Any], refusal: Refusal | None, *, is_alone: bool
) -> tuple[str, Refusal | None]:
    """What a step did, in a few words, and why the steps after it have nothing to work on, if so."""
    out, inputs = folder_of(given[step.output].path), _inputs(step, given)
    if refusal:
        refusal.save(out)
        return "not run", refusal
    if not _applies(step, given):
        why = f"the model was {_outcome(given)}"
        records.write_atomic(out / SKIPPED, f"Skipped: {why}.\n")
        return f"skipped: {why}", None
    try:
        with failures.recorded(step.name):
            check_refusals(inputs.values())
            _run_step(step, context, out, inputs)
    except InputError as error:
        if is_alone or not step.refuses:
            raise
        refusal = Refusal(step.name, str(error))
        refusal.save(out)
        return f"refused: {error}", refusal
    visuals.show(step.name, out, given)
    return step.describe(out).split("\n")[0], None


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
        hold=bool(given.get("hold")),
        asked_settings=given.get("asked_settings", ""),
    )


def workspace_of(path: str) -> Workspace:
    """The workspace on its volume. Its registry is the server in $MLFLOW_TRACKING_URI, if that is set."""
    return Workspace(Path(path), os.environ.get(TRACKING_VARIABLE, ""))


def folder_of(path: str) -> Path:
    """The folder of an artifact, created if it is missing."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_refusals(folders: Iterable[Path]) -> None:
    """Raises RefusedError when these artifacts were not made because an earlier step refused its inputs."""
    for folder in folders:
        if (folder / Refusal.FILE).is_file():
            found = Refusal.load(folder)
            raise failures.RefusedError(found.step, found.reason)


def _pipeline(place: str) -> Pipeline:
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, Pipeline):
        raise InputError(f'{place} is not a pipeline. Give the place of one as "module:attribute".')
    return found


def _settings(given: Mapping[str, Any]) -> Settings:
    if text := given.get("settings"):
        return from_toml(text)
    sections = {name.removesuffix(SUFFIX): value for name, value in given.items() if name.endswith(SUFFIX)}
    return Settings.of(sections, "parameter ")


def _applies(step: Step, given: Mapping[str, Any]) -> bool:
    return "decision" not in given or step.is_done_when(_outcome(given))


def _outcome(given: Mapping[str, Any]) -> str:
    folder = Path(given["decision"].path)
    if not (folder / Decision.FILE).is_file():
        return ""
    return Decision.load(folder).outcome


def _run_step(step: Step, context: Context, out: Path, inputs: Mapping[str, Path]) -> None:
    limited = step.context(context)
    if step.check:
        step.check(limited, inputs)
    if step.resumes:
        _resumed(step, context, out, inputs)
    else:
        step.function(limited, out, **inputs)


def _resumed(step: Step, context: Context, out: Path, inputs: Mapping[str, Path]) -> None:
    """Run a step that can resume in the workspace, where a pod that replaces this one finds its work."""
    work = context.workspace.state(context.model) / f"{step.name}-{resume_key(step, context, inputs)}"
    work.mkdir(parents=True, exist_ok=True)
    step.function(step.context(context), work, **inputs)
    shutil.copytree(work, out, dirs_exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def resume_key(step: Step, context: Context, inputs: Mapping[str, Path]) -> str:
    """Key under which interrupted work is kept: it depends on inputs, settings and code."""
    found = {name: digest.of_folder(folder) for name, folder in inputs.items()}
    return digest.of_data([found, step.settings_in(context), step.code_digest()])[:20]
