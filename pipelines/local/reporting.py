"""What is told of a run: to the report, to the registry, to the caller."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pergola.components import code, records, steps
from pergola.components.artifacts.data import PARTS, Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Registration
from pergola.components.artifacts.training import Export, Training
from pergola.components.evaluation import figures
from pergola.pipelines.local import summaries
from pergola.pipelines.local.reproduce import Again
from pergola.pipelines.local.results import RunResult
from pergola.pipelines.local.reuse import Output
from pergola.pipelines.local.walk import Data, Model, Verdict, Walk
from pergola.pipelines.settings import to_toml

if TYPE_CHECKING:
    from pergola.components.evaluation.report.report import About, Parts


def report_input(walk: Walk, data: Data, model: Model, verdict: Verdict) -> tuple[Parts, About]:
    """What the report shows, and how it says the run can be made again."""
    from pergola.components.evaluation.report.report import About, Parts

    parts = Parts(
        evaluation=model.evaluation.folder,
        gate=verdict.gate.folder,
        shards=data.shards.folder,
        validation=data.validation.folder,
        split=data.split.folder,
        augmentation=model.augmentation.folder,
        training=model.training.folder,
        export=model.export.folder,
        smoke_test=verdict.smoke_test.folder,
        champion=verdict.rival.folder if verdict.rival else None,
    )
    fingerprints = {"data": Manifest.load(data.manifest.folder).fingerprint,
                    "split": Split.load(data.split.folder).fingerprint}  # fmt: skip
    about = About(
        walk.model, walk.run.record["command"], to_toml(walk.settings), code.version(), fingerprints
    )
    return parts, about


def run_record(walk: Walk, data: Data, model: Model, verdict: Verdict, report: Output) -> steps.RunRecord:
    """What the registry is told of this run."""
    settings = records.to_dict(walk.settings)
    params = {f"{section}.{key}": value for section, part in settings.items() for key, value in part.items()}
    training = Training.load(model.training.folder)
    manifest = Manifest.load(data.manifest.folder)
    tags = {
        "pergola.data_fingerprint": manifest.fingerprint,
        "pergola.code": code.version(),
        "pergola.decision": "accepted" if verdict.decision.accepted else "rejected",
        "pergola.architecture": training.architecture,
        "pergola.source": str(walk.dataset),
    }
    files = (
        report.folder / "report.html",
        verdict.gate.folder / Decision.FILE,
        model.evaluation.folder / Evaluation.FILE,
        data.validation.folder / ValidationReport.FILE,
    )
    known = {_in_registry(name): value for name, value in figures.of(model.evaluation.folder).items()}
    return steps.RunRecord(walk.run.id, walk.model, params, known, tags, files, training.history)


def _in_registry(name: str) -> str:
    """Epochs have an "accuracy" there as well, which is on the training part."""
    return name if name.startswith("train_") else f"test_{name}"


def result(
    walk: Walk, data: Data, model: Model, verdict: Verdict, report: Output, version: int | None
) -> RunResult:
    """The answer of `pergola run`; the report is copied to the run's folder, with the run in its title."""
    from pergola.components.evaluation.report.report import with_run

    decision, done = verdict.decision, walk.steps.done
    page = walk.run.folder / "report.html"
    text = (report.folder / "report.html").read_text(encoding="utf-8")
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    records.write_atomic(page, with_run(text, model=walk.model, version=version, run=walk.run.id, date=date))
    published = walk.workspace.models / walk.model / str(version)
    counts = Split.load(data.split.folder).counts
    validation = ValidationReport.load(data.validation.folder)
    return RunResult(
        run=walk.run.id,
        decision="accepted" if decision.accepted else "rejected",
        reasons=decision.reasons,
        rules=decision.rules,
        version=version,
        model=walk.model,
        metrics=figures.of(model.evaluation.folder),
        counts={
            **summaries.data_counts(validation),
            **{part: counts.get(part, 0) for part in PARTS},
        },
        seconds={step: 0.0 if output.reused else round(output.seconds, 2) for step, output in done.items()},
        reused=tuple(step for step, output in done.items() if output.reused),
        model_path=str(published if version else model.saved_model),
        report=str(page),
        again=_again(walk, model, decision),
    )


def keep_dossier(walk: Walk, data: Data, model: Model, verdict: Verdict, registration: Output) -> None:
    """Keep what a version was made of, where tidying up does not reach."""
    from pergola.components.release import provenance

    registered, record = Registration.load(registration.folder), walk.run.record
    origin = provenance.Provenance(
        model=registered.model,
        version=registered.version,
        run=walk.run.id,
        source=str(walk.dataset),
        code=code.version(),
        command=record["command"],
        reason=record.get("reason", ""),
        released_s=int(time.time()),
    )
    made = provenance.ProvenanceSources(
        manifest=data.manifest.folder,
        validation=data.validation.folder,
        split=data.split.folder,
        training=model.training.folder,
        export=model.export.folder,
        evaluation=model.evaluation.folder,
        decision=verdict.gate.folder,
        registration=registration.folder,
    )
    place = walk.workspace.version(registered.model, registered.version)
    provenance.write(place, origin, to_toml(walk.settings), made)


def _again(walk: Walk, model: Model, decision: Decision) -> Again | None:
    if walk.like is None:
        return None
    export = Export.load(model.export.folder)
    return walk.like.compared(decision, export, trained=not model.training.reused)
