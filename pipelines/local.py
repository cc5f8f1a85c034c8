"""Every step in order, in one process. A newcomer starts here.

    scan -> validate -> split -> shards -> augment -> train -> export -> evaluate -> rehearse
         -> gate -> report -> reference -> register -> publish -> confirm

Steps hand folders to each other (components/artifacts.py); pipelines/reuse.py decides which need
to be done. A rejected model stops after its report, and that is a good run.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from components import artifacts, digest, records, steps
from components.data.disk import explained
from components.data.relabel import RELABEL_FILE, refuse_to_replace
from components.data.sources import open_source
from components.errors import InputError, PergolaError
from components.evaluation.costs import read_costs, read_text
from components.release.registry import Version, champion_of, version_of
from components.release.rehearse import Rehearsals
from components.release.tracker import Tracker
from components.training.architectures import ModelSettings
from pipelines import account, reuse, runs, words
from pipelines.config import Settings
from pipelines.like import Like
from pipelines.native import stderr_to
from pipelines.results import RunResult, ValidateResult
from pipelines.reuse import Output, Steps
from pipelines.show import Show
from pipelines.walk import Data, Model, Verdict, Walk
from pipelines.workspace import Workspace

log = logging.getLogger(__name__)

STEPS = (
    "scan", "validate", "split", "shards", "augment", "train", "export", "evaluate", "rehearse",
    "champion", "gate", "report", "reference", "register", "publish", "confirm",
)  # fmt: skip


def run(photos: Path, settings: Settings, workspace: Workspace, *, show: Show, force: str | None = None,
        command: str = "", reason: str = "", like: Like | None = None) -> RunResult:  # fmt: skip
    """Pictures to a published version, or to a rejected model and its reasons.

    force: a step from which everything is redone.  command: what a person typed, for the report.
    reason: why there is a run, for its record.  like: a version that is made again, and not released.
    Raises InputError for what the caller can mend, StepError when a step broke.
    """
    if force is not None and force not in STEPS:
        raise InputError(f"--force: there is no step '{force}'.{records.nearest(force, STEPS)}")
    if settings.export.costs:
        read_text(settings.export.costs)  # told before any work is done
    walk = _walk(photos, settings, workspace, show, force)
    walk.like = like
    with workspace.lock("a run"), explained(workspace.root):
        walk.run = runs.Run.begin(
            workspace, walk.photos, walk.settings, command, reason, str(like) if like else ""
        )
        try:
            with stderr_to(walk.run.folder / "native.log"), Rehearsals(settings.rehearse) as walk.rehearsals:
                result = _all_steps(walk)
        except PergolaError as error:
            walk.run.end(runs.FAILED, walk.steps.done, error=str(error))
            raise
        walk.run.end(runs.DONE, walk.steps.done, result=result.to_json())
        reuse.prune(workspace.steps, runs.kept_outputs(workspace, settings.release.keep_runs))
    return result


def scan(photos: Path, settings: Settings, workspace: Workspace, *, show: Show) -> Path:
    """Scan only. Gives the folder of the manifest."""
    walk = _walk(photos, settings, workspace, show, None)
    with workspace.lock("a scan"), explained(workspace.root):
        return _scan(walk).folder


def validate(
    photos: Path, settings: Settings, workspace: Workspace, *, show: Show, relabel: Path | None = None
) -> ValidateResult:
    """Scan and check only.

    relabel: where the ranked list of suspicious labels is put, to be edited.
    Raises InputError when that file is there already, or no labels were looked at.
    """
    if relabel is not None:
        refuse_to_replace(relabel)
    walk = _walk(photos, settings, workspace, show, None)
    with workspace.lock("a check"), explained(workspace.root):
        manifest = _scan(walk)
        output = _validate(walk, manifest)
    report = artifacts.ValidationReport.load(output.folder)
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
        words.data_counts(report),
        str(output.folder / "index.html"),
        str(relabel or ranked) if ranked.is_file() else "",
    )


def scan_only(photos: Path, settings: Settings, workspace: Workspace, *, show: Show) -> Path:
    """The manifest's folder, which a run will find again."""
    walk = _walk(photos, settings, workspace, show, None)
    with workspace.lock("a look at the pictures"), explained(workspace.root):
        return _scan(walk).folder


@contextmanager
def prepared(
    photos: Path, settings: Settings, workspace: Workspace, show: Show
) -> Iterator[tuple[Walk, Output]]:
    """The data steps only, for experiments: the walk and its shards, while the workspace is held."""
    walk = _walk(photos, settings, workspace, show, None)
    log_file = workspace.experiments / "native.log"
    log_file.parent.mkdir(exist_ok=True)
    with workspace.lock("an experiment"), explained(workspace.root), stderr_to(log_file):
        yield walk, _prepare_data(walk).shards


def augmented(walk: Walk, shards: Output) -> Output:
    """How training pictures are varied."""
    settings = walk.settings
    return walk.steps.run(
        "augment",
        lambda out: steps.augment(shards.folder, out, settings.augment, seed=settings.train.seed),
        inputs={"shards": shards.sha256, "seed": str(settings.train.seed)},
        settings=settings.augment,
    )


def _all_steps(walk: Walk) -> RunResult:
    data = _prepare_data(walk)
    model = _make_model(walk, data)
    verdict = _judge(walk, data, model)
    report = _report(walk, data, model, verdict)
    version = None if walk.like else _release(walk, data, model, verdict, report)
    return account.result(walk, data, model, verdict, report, version)


def _prepare_data(walk: Walk) -> Data:
    manifest = _scan(walk)
    if walk.like:
        walk.like.check(manifest.folder)
    validation = _validate(walk, manifest)
    if (ranked := validation.folder / RELABEL_FILE).is_file():
        records.write_atomic(walk.run.folder / RELABEL_FILE, ranked.read_bytes())
    _stop_if_critical(validation)
    settings, scratch = walk.settings, walk.workspace.scratch
    split = walk.steps.run(
        "split",
        lambda out: steps.split(
            manifest.folder, validation.folder, out, settings.split, previous=_last_split(walk)
        ),
        inputs={"manifest": manifest.sha256, "validation": validation.sha256},
        settings=settings.split,
    )
    shards = walk.steps.run(
        "shards",
        lambda out: steps.shards(walk.photos, manifest.folder, split.folder, out, settings.shards,
                                 scan=settings.scan, scratch=scratch, progress=walk.show.progress),
        inputs={"split": split.sha256},
        settings=settings.shards,
    )  # fmt: skip
    if settings.export.costs:
        read_costs(settings.export.costs, artifacts.Shards.load(shards.folder).labels)
    return Data(manifest, validation, split, shards)


def _make_model(walk: Walk, data: Data) -> Model:
    settings, shards = walk.settings, data.shards
    augmentation = augmented(walk, shards)
    training = walk.steps.run(
        "train",
        partial(_train, walk, shards, augmentation),
        inputs={"shards": shards.sha256, "augmentation": augmentation.sha256,
                "model": digest.of_data(records.to_dict(settings.model)),
                "weights": _sha256(settings.model.weights)},
        settings=settings.train,
        resumes=True,
    )  # fmt: skip
    export = walk.steps.run(
        "export",
        lambda out: steps.export(training.folder, shards.folder, out, settings.export),
        inputs={
            "training": training.sha256,
            "shards": shards.sha256,
            "costs": digest.of_data(read_text(settings.export.costs)) if settings.export.costs else None,
        },
        settings=dataclasses.replace(settings.export, costs=""),  # their text counts, not where it lies
    )
    evaluation = _evaluate(walk, data, "evaluate", export.folder / "saved_model", export.sha256)
    return Model(augmentation, training, export, evaluation)


def _judge(walk: Walk, data: Data, model: Model) -> Verdict:
    settings = walk.settings
    rehearsal = walk.steps.run(
        "rehearse",
        lambda out: steps.rehearse(walk.rehearsals, model.saved_model, model.evaluation.folder, out,
                                   timing=walk.run.folder / "rehearsal-latency.json"),
        inputs={"export": model.export.sha256, "evaluation": model.evaluation.sha256},
        settings=settings.rehearse,
    )  # fmt: skip
    champion = _champion(walk, artifacts.Export.load(model.export.folder))
    rival = _evaluate_champion(walk, data, champion) if champion else None
    rival_folder = rival.folder if rival else None
    version = champion.version if champion else None
    gate = walk.steps.run(
        "gate",
        lambda out: steps.gate(model.evaluation.folder, rival_folder, rehearsal.folder, out, settings.gate,
                               champion_version=version),
        inputs={"evaluation": model.evaluation.sha256, "rehearsal": rehearsal.sha256,
                "champion": rival.sha256 if rival else None, "version": str(version)},
        settings=settings.gate,
    )  # fmt: skip
    decision = artifacts.Decision.load(gate.folder)
    return Verdict(decision, rehearsal, rival, gate)


def _report(walk: Walk, data: Data, model: Model, verdict: Verdict) -> Output:
    return walk.steps.run(
        "report",
        lambda out: steps.report(*account.report_input(walk, data, model, verdict), out),
        inputs={
            "gate": verdict.gate.sha256,
            "validation": data.validation.sha256,
            "training": model.training.sha256,
            "evaluation": model.evaluation.sha256,
            "augmentation": model.augmentation.sha256,
            "settings": digest.of_data(records.to_dict(walk.settings)),
        },
    )


def _release(walk: Walk, data: Data, model: Model, verdict: Verdict, report: Output) -> int | None:
    """Record the run. An accepted model takes a version number, is published and confirmed."""
    workspace, base = walk.workspace, walk.workspace.models
    reference = _reference(walk, data, model) if verdict.decision.accepted else None
    registration = walk.steps.run(
        "register",
        lambda out: steps.register(verdict.gate.folder, model.export.folder, out,
                                   record=account.run_record(walk, data, model, verdict, report),
                                   tracking_uri=workspace.tracking_uri),
        inputs={"export": model.export.sha256, "gate": verdict.gate.sha256, "report": report.sha256,
                "model": walk.model},
    )  # fmt: skip
    if reference is None:
        return None
    registered = artifacts.Registration.load(registration.folder)
    account.keep_dossier(walk, data, model, verdict, registration)
    publication = walk.steps.run(
        "publish",
        lambda out: steps.publish(registration.folder, model.saved_model, reference.folder, out, base=base),
        inputs={"registration": registration.sha256, "reference": reference.sha256},
        still=lambda: (base / registered.model / str(registered.version)).is_dir(),
    )
    walk.steps.run(
        "confirm",
        partial(_confirm, walk, model, publication),
        inputs={"publication": publication.sha256, "evaluation": model.evaluation.sha256},
        still=lambda: publication.reused,
    )
    return registered.version


def _reference(walk: Walk, data: Data, model: Model) -> Output:
    return walk.steps.run(
        "reference",
        lambda out: steps.reference(model.saved_model, data.shards.folder, model.evaluation.folder, out,
                                    progress=walk.show.progress),
        inputs={"export": model.export.sha256, "shards": data.shards.sha256,
                "evaluation": model.evaluation.sha256},
    )  # fmt: skip


def _confirm(walk: Walk, model: Model, publication: Output, out: Path) -> None:
    """Ask the server that people use, if it runs; else the rehearsal's, on the published folder."""
    from serving.client import Client

    published = artifacts.Publication.load(publication.folder)
    base, server = walk.workspace.models, walk.workspace.server()
    client = (
        Client(server["grpc"], model=published.model)
        if server
        else walk.rehearsals.serve(base, published.model, published.version)
    )
    with client:
        steps.confirm(publication.folder, model.evaluation.folder, out, client=client, base=base,
                      tracking_uri=walk.workspace.tracking_uri,
                      max_difference=walk.settings.gate.max_difference)  # fmt: skip


def _walk(photos: Path, settings: Settings, workspace: Workspace, show: Show, force: str | None) -> Walk:
    settings = settings.of_a_run()
    photos = photos.expanduser().absolute()
    if not photos.exists():
        raise InputError(f"There are no pictures at '{photos}': no such file or folder. Check the path.")
    workspace.create()

    def tell(output: Output) -> None:
        show.step(output.step, words.of_step(output), output.seconds, reused=output.reused)

    steps = Steps(workspace.steps, force_from=force, on_end=tell)
    return Walk(photos, settings, workspace, show, model_name(photos, settings), steps)


def model_name(photos: Path, settings: Settings) -> str:
    """The name asked for, or the data folder's, as a name that MLflow, URLs and folders all take."""
    asked = settings.release.name or re.sub(
        r"(\.(tar|csv|zip|npz|parquet|gz|xz|bz2|tgz))+$", "", photos.name.lower()
    )
    plain = unicodedata.normalize("NFKD", asked).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")
    if settings.release.name and name != settings.release.name:
        raise InputError(
            f"release.name: '{settings.release.name}' is no model's name. Wanted letters, digits, '-', '_'"
            + (f", such as '{name}'." if name else ".")
        )
    return name or "pictures"


def _scan(walk: Walk) -> Output:
    settings, scratch = walk.settings.scan, walk.workspace.scratch
    source = open_source(walk.photos, settings, scratch)
    listing = ((e.path, e.label, e.given_split, *e.stamp) for e in source.entries())
    return walk.steps.run(
        "scan",
        lambda out: steps.scan(walk.photos, out, settings, scratch=scratch, progress=walk.show.progress),
        inputs={
            "listing": digest.of_rows(listing),
            "kind": source.kind,
            "relabel": _sha256(settings.relabel),
        },
        settings=settings,
    )


def _validate(walk: Walk, manifest: Output) -> Output:
    settings = walk.settings
    return walk.steps.run(
        "validate",
        lambda out: steps.validate(walk.photos, manifest.folder, out, settings.validate,
                                   scan=settings.scan, scratch=walk.workspace.scratch,
                                   architecture=settings.model.architecture, weights=settings.model.weights,
                                   progress=walk.show.progress),
        inputs={"manifest": manifest.sha256, "expectations": _sha256(settings.validate.expectations),
                "relabel": _sha256(settings.scan.relabel), "network": _pretrained(settings.model)},
        settings=settings.validate,
    )  # fmt: skip


def _pretrained(model: ModelSettings) -> str | None:
    """Of what pictures are compared by; None when the model has no pretrained weights."""
    named = [model.architecture, model.weights, _sha256(model.weights)]
    return digest.of_data(named) if model.weights else None


def _sha256(file: str) -> str | None:
    """Of a file that a setting names; None when it names none. A missing one is for the step to refuse."""
    return digest.of_file(Path(file)) if file and Path(file).is_file() else None


def _stop_if_critical(validation: Output) -> None:
    report = artifacts.ValidationReport.load(validation.folder)
    if not report.ok:
        critical = [f.message for f in report.findings if f.severity == artifacts.CRITICAL]
        raise InputError(
            f"The data cannot be used: {' '.join(critical)} See {validation.folder / 'index.html'}"
        )


def _last_split(walk: Walk) -> Path | None:
    """The split of the last run on the same data with the same settings of the split, or of walk.like."""
    if walk.like:
        return walk.like.place
    wanted = records.to_dict(walk.settings.split)
    for run in reversed(walk.workspace.run_ids()):
        record = walk.workspace.run_record(run)
        if record.get("like"):
            continue
        if record["source"] == str(walk.photos) and record["settings"]["split"] == wanted:
            folder = walk.workspace.steps / "split" / record["steps"].get("split", {}).get("key", "absent")
            if (folder / artifacts.Split.FILE).is_file():
                return folder
    return None


def _train(walk: Walk, shards: Output, augmentation: Output, out: Path) -> None:
    walk.rehearsals.start()  # its TensorFlow loads while this process trains
    settings = walk.settings
    speed: dict[str, float] = {}

    def on_epoch(epoch: int, figures: Mapping[str, float]) -> None:
        tracker.epoch(epoch, figures)
        speed.update(figures)

    with Tracker(walk.workspace.tracking_uri, walk.run.id, walk.model) as tracker:
        steps.train(shards.folder, augmentation.folder, out, settings.train, model=settings.model,
                    progress=walk.show.progress, on_epoch=on_epoch)  # fmt: skip
    if speed:
        walk.show.say(words.of_speed(speed))
    if tracker.problem:
        log.warning("epochs are not in the registry yet: %s", tracker.problem)


def _evaluate(walk: Walk, data: Data, name: str, saved_model: Path, sha256: str) -> Output:
    settings = walk.settings.evaluate
    return walk.steps.run(
        "evaluate",
        lambda out: steps.evaluate(saved_model, data.shards.folder, data.split.folder, out, settings,
                                   manifest=data.manifest.folder, champion=name == "champion",
                                   progress=walk.show.progress),
        inputs={"model": sha256, "manifest": data.manifest.sha256, "shards": data.shards.sha256,
                "split": data.split.sha256, "as": name},
        settings=settings,
        name=name,
    )  # fmt: skip


def _champion(walk: Walk, export: artifacts.Export) -> Version | None:
    """The version to beat: the champion, or the one before it when the champion is this very model.

    For a run that is like a version's, the one that it was compared with.
    """
    uri = walk.workspace.tracking_uri
    champion = champion_of(uri, walk.model)
    if walk.like:
        champion = version_of(uri, walk.model, walk.like.champion) if walk.like.champion else None
    elif champion and champion.sha256 == export.sha256:
        champion = version_of(uri, walk.model, champion.previous) if champion.previous else None
    if champion and not _published(walk, champion).is_dir():
        log.warning(
            "champion=%s is not in %s, so it is not compared with", champion.version, walk.workspace.models
        )
        return None
    return champion


def _evaluate_champion(walk: Walk, data: Data, champion: Version) -> Output:
    return _evaluate(walk, data, "champion", _published(walk, champion), champion.sha256)


def _published(walk: Walk, version: Version) -> Path:
    return walk.workspace.models / version.model / str(version.version)
