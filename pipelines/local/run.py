"""`pergola run` and its parts: the pipeline of pipelines/definition.py in this process."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pergola.components import records
from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.manifest.relabel import RELABEL_FILE, refuse_to_replace
from pergola.components.disk import explained
from pergola.components.errors import InputError, PergolaError
from pergola.components.imaging.pretrained import check_weights
from pergola.components.release.smoke_test import SmokeTestServer
from pergola.components.settings import Settings
from pergola.components.stats.costs import read_text
from pergola.components.steps.context import Context, RunInfo
from pergola.components.workspace import Workspace
from pergola.pipelines import summaries
from pergola.pipelines.definition import TRAINING, Pipeline, Step
from pergola.pipelines.local import runs
from pergola.pipelines.local.cache import Output
from pergola.pipelines.local.engine import Engine
from pergola.pipelines.local.native import stderr_to
from pergola.pipelines.local.progress import Display
from pergola.pipelines.local.reproduce import OriginalVersion
from pergola.pipelines.local.result import RunResult, ValidateResult, result_of


def run(
    dataset: Path,
    settings: Settings,
    workspace: Workspace,
    *,
    show: Display,
    force: str | None = None,
    command: str = "",
    reason: str = "",
    reproduce: OriginalVersion | None = None,
    release: bool = True,
    pipeline: Pipeline = TRAINING,
) -> RunResult:
    """A data set to a published version, or to a rejected model and the reasons.

    force: a step from which everything is done again.  command: what a person typed, for the report.
    reason: why there is a run, for its record.  reproduce: a version to reproduce; nothing is released.
    release: False: a model that the gate accepts is held: it gets a version, and the champion stays.
    Raises InputError for what the caller can fix, StepError when a step failed.
    """
    if settings.export.costs:  # what is wrong with files is reported before any work is done
        read_text(settings.export.costs)
    check_weights(settings.model.weights, settings.model.architecture)
    hold = not release or (reproduce is not None and reproduce.was_held_by_request)
    context = replace(_begin(dataset, settings, workspace, show), hold=hold)
    engine = _engine(context, show, force, pipeline)  # refuses an unknown step before anything is written
    with workspace.lock("a run"), explained(workspace.root):
        record = runs.Run.begin(
            workspace, context.dataset, context.settings, command, reason, str(reproduce or "")
        )
        try:
            with (
                stderr_to(record.folder / "native.log"),
                SmokeTestServer(settings.smoke_test) as server,
            ):
                engine.context = _of_run(context, record, server, reproduce)
                _all_steps(engine, reproduce)
                result = result_of(engine, record, reproduce)
        except PergolaError as error:
            record.end(runs.FAILED, engine.done, error=str(error))
            raise
        finally:
            _keep_relabel(engine, record)
        record.end(runs.DONE, engine.done, outcome=result.outcome, result=result.to_json())
        engine.cache.prune(runs.kept_outputs(workspace, settings.release.keep_runs))
    return result


def scan(dataset: Path, settings: Settings, workspace: Workspace, *, show: Display) -> Path:
    """Scan only. Gives the folder of the manifest, which a run will find again."""
    engine = _engine(_begin(dataset, settings, workspace, show), show)
    with workspace.lock("a scan"), explained(workspace.root):
        engine.run("scan")
    return engine.output("manifest").folder


def validate(
    dataset: Path, settings: Settings, workspace: Workspace, *, show: Display, relabel: Path | None = None
) -> ValidateResult:
    """Scan and check only.

    relabel: where the ranked list of suspicious labels is put, to be edited.
    Raises InputError when that file is there already, or labels were not checked.
    """
    if relabel is not None:
        refuse_to_replace(relabel)
    check_weights(settings.model.weights, settings.model.architecture)
    engine = _engine(_begin(dataset, settings, workspace, show), show)
    with workspace.lock("a check"), explained(workspace.root):
        engine.run("validate")
    folder = engine.output("validation").folder
    report, ranked = ValidationReport.load(folder), folder / RELABEL_FILE
    if relabel is not None:
        if not ranked.is_file():
            raise InputError(
                "--relabel: labels were not checked; see validate.label_errors and the findings."
            )
        records.write_atomic(relabel, ranked.read_bytes())
    return ValidateResult(
        report.ok,
        report.findings,
        summaries.data_counts(report),
        str(folder / "index.html"),
        str(relabel or ranked) if ranked.is_file() else "",
    )


@contextmanager
def prepared(
    dataset: Path, settings: Settings, workspace: Workspace, show: Display, until: str = "shards"
) -> Iterator[Engine]:
    """The pipeline up to a step, for experiments, while the workspace is held."""
    engine = _engine(_begin(dataset, settings, workspace, show), show)
    log_file = workspace.experiments / "native.log"
    log_file.parent.mkdir(exist_ok=True)
    with workspace.lock("an experiment"), explained(workspace.root), stderr_to(log_file):
        engine.run(until)
        yield engine


def model_name(dataset: Path, settings: Settings) -> str:
    """The name asked for, or the data folder's, as a name that MLflow, URLs and folders all take."""
    asked = settings.release.name or re.sub(
        r"(\.(tar|csv|zip|npz|parquet|gz|xz|bz2|tgz))+$", "", dataset.name.lower()
    )
    plain = unicodedata.normalize("NFKD", asked).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")
    if settings.release.name and name != settings.release.name:
        raise InputError(
            f"release.name: '{settings.release.name}' cannot be a model's name. "
            "Use letters, digits, '-' and '_'" + (f", such as '{name}'." if name else ".")
        )
    return name or "images"


def _begin(dataset: Path, settings: Settings, workspace: Workspace, show: Display) -> Context:
    """What steps share. Raises InputError when there is nothing at `dataset`."""
    settings, dataset = settings.of_a_run(), dataset.expanduser().absolute()
    if not dataset.exists():
        raise InputError(f"There are no images at '{dataset}': no such file or folder. Check the path.")
    workspace.create()
    name = model_name(dataset, settings)
    return Context(dataset, name, settings, workspace, progress=show.progress, say=show.line)


def _engine(
    context: Context, show: Display, force: str | None = None, pipeline: Pipeline = TRAINING
) -> Engine:
    def start(step: Step) -> None:
        if step.name == "train" and engine.context.server:
            engine.context.server.start()  # its TensorFlow loads while this process trains

    def end(step: Step, output: Output) -> None:
        show.step(step.name, step.describe(output.folder), output.seconds, reused=output.reused)

    engine = Engine(pipeline, context, force_from=force, on_start=start, on_end=end)
    return engine


def _of_run(
    context: Context, run: runs.Run, server: SmokeTestServer, original: OriginalVersion | None
) -> Context:
    record = run.record
    return replace(
        context,
        run=RunInfo(run.id, record["command"], record.get("reason", ""), run.folder),
        track_epochs=True,
        reproduces=original.place if original else None,
        server=server,
    )


def _all_steps(engine: Engine, original: OriginalVersion | None) -> None:
    if original:
        engine.run("scan")
        original.check(engine.output("manifest").folder)
    engine.run()


def _keep_relabel(engine: Engine, run: runs.Run) -> None:
    """Put the ranked list of suspicious labels, if there is one, where a person finds it: in the run."""
    found = engine.done.get("validate")
    if found and (ranked := found.folder / RELABEL_FILE).is_file():
        records.write_atomic(run.folder / RELABEL_FILE, ranked.read_bytes())
