"""Every step in order, in one process. A newcomer starts here.

    scan -> validate -> split -> shards -> augment -> train -> export -> evaluate -> smoke test
         -> gate -> report -> reference -> register -> publish -> confirm

Steps hand folders to each other (components/artifacts/). What each of them takes and depends on is in
local_data.py, local_model.py and local_release.py beside this file; pipelines/local/reuse.py decides which
need to be done. A rejected model stops after its report, and that is a good run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pergola.components import records
from pergola.components.artifacts.data import ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.release import Registration
from pergola.components.data.manifest.relabel import RELABEL_FILE, refuse_to_replace
from pergola.components.disk import explained
from pergola.components.errors import InputError, PergolaError
from pergola.components.evaluation.costs import read_text
from pergola.components.imaging.pretrained import check_weights
from pergola.components.release.smoke_test import SmokeTestServer
from pergola.pipelines.local import (
    local_data,
    local_model,
    local_release,
    reporting,
    reuse,
    runs,
    summaries,
)
from pergola.pipelines.local.native import stderr_to
from pergola.pipelines.local.progress import Show
from pergola.pipelines.local.reproduce import Like
from pergola.pipelines.local.results import RunResult, ValidateResult
from pergola.pipelines.local.reuse import Output
from pergola.pipelines.local.walk import Data, Model, Verdict, Walk, begin
from pergola.pipelines.settings import Settings
from pergola.pipelines.workspace import Workspace

STEPS = (
    "scan", "validate", "split", "shards", "augment", "train", "export", "evaluate", "smoke_test",
    "champion", "gate", "report", "reference", "register", "publish", "confirm",
)  # fmt: skip


def run(dataset: Path, settings: Settings, workspace: Workspace, *, show: Show, force: str | None = None,
        command: str = "", reason: str = "", like: Like | None = None) -> RunResult:  # fmt: skip
    """Images to a published version, or to a rejected model and its reasons.

    force: a step from which everything is redone.  command: what a person typed, for the report.
    reason: why there is a run, for its record.  like: a version that is made again, and not released.
    Raises InputError for what the caller can mend, StepError when a step broke.
    """
    if force is not None and force not in STEPS:
        raise InputError(f"--force: there is no step '{force}'.{records.nearest(force, STEPS)}")
    if settings.export.costs:  # what is wrong with files is told before any work is done
        read_text(settings.export.costs)
    check_weights(settings.model.weights, settings.model.architecture)
    walk = begin(dataset, settings, workspace, show, force)
    walk.like = like
    with workspace.lock("a run"), explained(workspace.root):
        walk.run = runs.Run.begin(
            workspace, walk.dataset, walk.settings, command, reason, str(like) if like else ""
        )
        try:
            with (
                stderr_to(walk.run.folder / "native.log"),
                SmokeTestServer(settings.smoke_test) as walk.smoke_test_server,
            ):
                result = _all_steps(walk)
        except PergolaError as error:
            walk.run.end(runs.FAILED, walk.steps.done, error=str(error))
            raise
        finally:
            local_data.keep_relabel(walk)
        walk.run.end(runs.DONE, walk.steps.done, result=result.to_json())
        reuse.prune(workspace.steps, runs.kept_outputs(workspace, settings.release.keep_runs))
    return result


def _all_steps(walk: Walk) -> RunResult:
    data = _prepare_data(walk)
    model = _make_model(walk, data)
    verdict = _judge(walk, data, model)
    report = local_release.report(walk, data, model, verdict)
    version = None if walk.like else _release(walk, data, model, verdict, report)
    return reporting.result(walk, data, model, verdict, report, version)


def _prepare_data(walk: Walk) -> Data:
    """Images -> what a network can learn from, and what it will be tested with."""
    manifest = local_data.scan(walk)
    if walk.like:
        walk.like.check(manifest.folder)
    validation = local_data.validate(walk, manifest)
    local_data.stop_if_critical(validation)
    split = local_data.split(walk, manifest, validation)
    shards = local_data.shards(walk, manifest, split)
    return Data(manifest, validation, split, shards)


def _make_model(walk: Walk, data: Data) -> Model:
    """Shards -> a SavedModel, and what it is worth."""
    augmentation = local_model.augment(walk, data.shards)
    training = local_model.train(walk, data.shards, augmentation)
    export = local_model.export(walk, data.shards, training)
    evaluation = local_model.evaluate(walk, data, export)
    return Model(augmentation, training, export, evaluation)


def _judge(walk: Walk, data: Data, model: Model) -> Verdict:
    """A real server has to answer with it, and it is held against the champion on the same images."""
    smoke_test = local_release.smoke_test(walk, model)
    champion = local_model.champion(walk, model.export)
    rival = local_model.evaluate_champion(walk, data, champion)
    gate = local_release.gate(walk, model, smoke_test, champion, rival)
    return Verdict(Decision.load(gate.folder), smoke_test, rival, gate)


def _release(walk: Walk, data: Data, model: Model, verdict: Verdict, report: Output) -> int | None:
    """Record the run. An accepted model takes a version number, is published and confirmed."""
    if not verdict.decision.accepted:
        local_release.register(walk, data, model, verdict, report)
        return None
    reference = local_release.reference(walk, data, model)
    registration = local_release.register(walk, data, model, verdict, report)
    reporting.keep_dossier(walk, data, model, verdict, registration)
    publication = local_release.publish(walk, model, registration, reference)
    local_release.confirm(walk, model, publication)
    return Registration.load(registration.folder).version


def scan(dataset: Path, settings: Settings, workspace: Workspace, *, show: Show) -> Path:
    """Scan only. Gives the folder of the manifest, which a run will find again."""
    walk = begin(dataset, settings, workspace, show)
    with workspace.lock("a scan"), explained(workspace.root):
        return local_data.scan(walk).folder


def validate(
    dataset: Path, settings: Settings, workspace: Workspace, *, show: Show, relabel: Path | None = None
) -> ValidateResult:
    """Scan and check only.

    relabel: where the ranked list of suspicious labels is put, to be edited.
    Raises InputError when that file is there already, or no labels were looked at.
    """
    if relabel is not None:
        refuse_to_replace(relabel)
    check_weights(settings.model.weights, settings.model.architecture)
    walk = begin(dataset, settings, workspace, show)
    with workspace.lock("a check"), explained(workspace.root):
        manifest = local_data.scan(walk)
        output = local_data.validate(walk, manifest)
    report = ValidationReport.load(output.folder)
    ranked = output.folder / RELABEL_FILE
    if relabel is not None:
        if not ranked.is_file():
            raise InputError(
                "--relabel: no labels were looked at; see validate.label_errors and the findings."
            )
        records.write_atomic(relabel, ranked.read_bytes())
    return ValidateResult(
        report.ok,
        report.findings,
        summaries.data_counts(report),
        str(output.folder / "index.html"),
        str(relabel or ranked) if ranked.is_file() else "",
    )


@contextmanager
def prepared(
    dataset: Path, settings: Settings, workspace: Workspace, show: Show
) -> Iterator[tuple[Walk, Output]]:
    """The data steps only, for experiments: the walk and its shards, while the workspace is held."""
    walk = begin(dataset, settings, workspace, show)
    log_file = workspace.experiments / "native.log"
    log_file.parent.mkdir(exist_ok=True)
    with workspace.lock("an experiment"), explained(workspace.root), stderr_to(log_file):
        yield walk, _prepare_data(walk).shards
