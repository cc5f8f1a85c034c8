"""Every step: load, call the domain, save. Paths in, paths out, no decisions.

Each artifact is a folder (see components/artifacts/). Heavy imports happen inside the functions,
which is also how components/code.py knows what a step depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.artifacts.data import Manifest, Shards, Split, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation, GoldenRequests
from pergola.components.artifacts.release import Confirmation, Publication, Registration
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.progress import Progress, silent

if TYPE_CHECKING:
    from pergola.components.data.checks.validate import ValidateSettings
    from pergola.components.data.manifest.scan import ScanSettings
    from pergola.components.data.shards import ShardSettings
    from pergola.components.data.split import SplitSettings
    from pergola.components.evaluation.drift.reference import DriftReference
    from pergola.components.evaluation.evaluate import EvaluateSettings
    from pergola.components.evaluation.gate.gate import GateSettings
    from pergola.components.evaluation.report.report import About, Parts
    from pergola.components.release.smoke_test import SmokeTestServer
    from pergola.components.training.augmentation.augment import AugmentSettings
    from pergola.components.training.export import ExportSettings
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings
    from pergola.components.training.search.comparison import Row
    from pergola.components.training.search.space import Tuned
    from pergola.components.training.search.tune import Trial, TuneSettings, Tuning
    from pergola.serving.client.client import Client


@dataclass(frozen=True)
class RunRecord:
    """What the registry keeps of a run."""

    key: str  # by which the run is found again
    name: str  # of the model
    params: Mapping[str, Any]  # "section.key" -> value
    metrics: Mapping[str, float | None]
    tags: Mapping[str, str]
    files: Sequence[Path]  # report and records
    history: Sequence[Mapping[str, float]]  # one an epoch


def scan(
    dataset: Path, out: Path, settings: ScanSettings, *, scratch: Path, progress: Progress = silent
) -> Manifest:
    """Images -> manifest. scratch: a folder of ours, kept from run to run."""
    from pergola.components.data.manifest.scan import scan as scan_source
    from pergola.components.data.sources.source import open_source

    return scan_source(open_source(dataset, settings, scratch), out, settings, progress=progress)


def scan_part(
    dataset: Path, out: Path, settings: ScanSettings, index: int, count: int, *, scratch: Path
) -> None:
    """Every `count`-th image from the `index`-th on -> a part of the manifest."""
    from pergola.components.data.partitions import scan_partition
    from pergola.components.data.sources.source import open_source

    scan_partition(open_source(dataset, settings, scratch), out, settings, index, count)


def merge_scans(parts: Sequence[Path], out: Path) -> Manifest:
    """All parts -> the manifest that one scan of everything makes."""
    from pergola.components.data.partitions import merge_scans as merge

    return merge(parts, out)


def validate(
    dataset: Path,
    manifest: Path,
    out: Path,
    settings: ValidateSettings,
    *,
    scan: ScanSettings,
    scratch: Path,
    architecture: str = "auto",
    weights: str = "",
    progress: Progress = silent,
) -> ValidationReport:
    """Manifest and images -> findings, a ranked list of suspicious labels, and a page that shows them.

    architecture, weights: of the model, whose pretrained network compares images where there is one.
    """
    from pergola.components.data.checks.facts import ImageAccess
    from pergola.components.data.checks.validate import run_checks
    from pergola.components.data.page import write_page
    from pergola.components.data.sources.source import open_source

    source = open_source(dataset, scan, scratch)
    images = ImageAccess(source, architecture, weights, scan.relabel, progress)
    validation = run_checks(manifest, settings, images)
    validation.save(out)
    write_page(validation.report, manifest, source, out)
    return validation.report


def split(
    manifest: Path, validation: Path, out: Path, settings: SplitSettings, *, previous: Path | None = None
) -> Split:
    """Manifest and findings -> which image is in which part. previous: the last split of the same data."""
    from pergola.components.data.split import split as assign

    report = ValidationReport.load(validation)
    return assign(manifest, report, out, settings, previous=previous)


def shards(
    dataset: Path,
    manifest: Path,
    split: Path,
    out: Path,
    settings: ShardSettings,
    *,
    scan: ScanSettings,
    scratch: Path,
    progress: Progress = silent,
) -> Shards:
    """Images, manifest and split -> TFRecord shards."""
    from pergola.components.data.shards import write_shards
    from pergola.components.data.sources.source import open_source

    source = open_source(dataset, scan, scratch)
    return write_shards(source, manifest, split, out, settings, progress=progress)


def shards_part(
    dataset: Path,
    manifest: Path,
    split: Path,
    out: Path,
    settings: ShardSettings,
    index: int,
    count: int,
    *,
    scan: ScanSettings,
    scratch: Path,
) -> None:
    """Every `count`-th file of the shards from the `index`-th on."""
    from pergola.components.data.partitions import write_partition
    from pergola.components.data.sources.source import open_source

    write_partition(open_source(dataset, scan, scratch), manifest, split, out, settings, index, count)


def merge_shards(
    parts: Sequence[Path], manifest: Path, split: Path, out: Path, settings: ShardSettings
) -> Shards:
    """All parts -> the shards that one pass over everything writes."""
    from pergola.components.data.partitions import merge_shards as merge

    return merge(parts, manifest, split, out, settings)


def augment(shards: Path, out: Path, settings: AugmentSettings, *, seed: int) -> Augmentation:
    """Shards -> how training images are varied, and an image of it."""
    from pergola.components.training.augmentation.augment import augment as prepare

    return prepare(shards, out, settings, seed=seed)


def train(
    shards: Path,
    augmentation: Path,
    out: Path,
    settings: TrainSettings,
    *,
    model: ModelSettings,
    progress: Progress = silent,
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda epoch, figures: None,
) -> Training:
    """Shards -> a trained network. Goes on from what it left in `out`.

    With TF_CONFIG in the environment this process is one worker of several: all of them call this with the
    same arguments and an `out` on a volume that they share, before they use TensorFlow for anything else
    (`python -m pergola.components.training.worker` is such a process). Worker 0 alone writes and calls
    on_epoch; the others return when it is done. All GPUs of a machine are used without being asked for.
    """
    from pergola.components.training.fit import fit

    return fit(shards, augmentation, out, model, settings, progress=progress, on_epoch=on_epoch)


def tune(
    shards: Path,
    out: Path,
    settings: TuneSettings,
    *,
    base: Tuned,
    space: Path | None = None,
    tracking_uri: str | None = None,
    key: str = "tune",
    progress: Progress = silent,
) -> Tuning:
    """Shards -> the best settings of a search, as best.toml for --config. Goes on from what it left in `out`.

    space: a TOML file, by default the one that fits the weights (components/training/search/space.toml).
    tracking_uri, key: the registry in which each trial becomes the run "<key>-<trial>"; None: in none.
    """
    from pergola.components.training.search import space as spaces
    from pergola.components.training.search.tune import tune as search

    default = spaces.PRETRAINED if base.model.weights else spaces.SCRATCH
    parameters = spaces.load(space or default)

    def on_trial(trial: Trial) -> None:
        if tracking_uri:
            _note_trial(tracking_uri, f"{key}-{trial.id}", trial)

    return search(shards, out, base, parameters, settings, progress=progress, on_trial=on_trial)


def _note_trial(tracking_uri: str, key: str, trial: Trial) -> None:
    from pergola.components.release.registry import Registry

    registry = Registry(tracking_uri)
    run = registry.run(key)
    figures = {
        name: getattr(trial, name) for name in ("val_accuracy", "val_loss", "num_parameters", "seconds")
    }
    named = {f"trial_{name}": value for name, value in figures.items()}
    tags = {"pergola.tune": key.rpartition("-")[0], "pergola.problem": trial.problem}
    registry.log(run, params=trial.values, metrics=named, tags=tags)
    registry.log_epochs(run, trial.history)
    registry.finish(run, failed=bool(trial.problem))


def ladder(
    shards: Path,
    augmentation: Path,
    out: Path,
    settings: TrainSettings,
    *,
    model: ModelSettings,
    names: Sequence[str],
    progress: Progress = silent,
    on_row: Callable[[Row, bool], None] = lambda row, is_new: None,
) -> tuple[Row, ...]:
    """Shards -> several architectures compared, and an image of it. Goes on from what it left in `out`."""
    from pergola.components.training.search.comparison import compare
    from pergola.components.training.search.comparison_chart import draw

    rows = compare(shards, augmentation, out, names, model, settings, progress=progress, on_row=on_row)
    draw(rows, out)
    return rows


def export(training: Path, shards: Path, out: Path, settings: ExportSettings) -> Export:
    """A trained network -> a SavedModel that takes encoded images."""
    from pergola.components.training.export import export as write

    return write(training, shards, out, settings)


def evaluate(
    saved_model: Path,
    shards: Path,
    split: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    manifest: Path | None = None,
    champion: bool = False,
    progress: Progress = silent,
) -> Evaluation:
    """A SavedModel and the test part -> scores; by slice too, with the manifest.

    champion: another run's model, with labels of its own; it is scored to be compared with, no more.
    """
    from pergola.components.evaluation.evaluate import evaluate as score
    from pergola.components.evaluation.export_notes import ExportNotes
    from pergola.components.evaluation.loaded_model import LoadedModel

    with LoadedModel(saved_model) as model:
        if champion:
            return score(model.probabilities, shards, split, out, settings, progress=progress,
                         model_labels=model.labels(), with_train=False)  # fmt: skip
        explain = model.saliency if model.explains() else None
        return score(model.probabilities, shards, split, out, settings, progress=progress, explain=explain,
                     notes=ExportNotes.of(saved_model), manifest_folder=manifest)  # fmt: skip


def smoke_test(
    smoke_test_server: SmokeTestServer,
    saved_model: Path,
    evaluation: Path,
    out: Path,
    *,
    timing: Path | None = None,
) -> SmokeTest:
    """A SavedModel -> what a real server answered with it to the golden requests."""
    golden = GoldenRequests.load(evaluation)
    return smoke_test_server.smoke_test(saved_model, golden, out, timing=timing)


def gate(
    evaluation: Path,
    champion: Path | None,
    smoke_test: Path,
    out: Path,
    settings: GateSettings,
    *,
    champion_version: int | None = None,
) -> Decision:
    """Scores and smoke test -> may it ship. champion: its evaluation on the same images."""
    from pergola.components.evaluation.gate.gate import GateInputs, decide

    inputs = GateInputs.of(evaluation, champion, smoke_test, champion_version)
    decision = decide(inputs, settings)
    if inputs.costs and champion:
        inputs.costs.save(out)  # with the champion's; the evaluation has its own without
    decision.save(out)
    return decision


def report(parts: Parts, about: About, out: Path) -> Path:
    """All that a run found out -> one HTML page."""
    from pergola.components.evaluation.report.report import write_report

    return write_report(parts, about, out)


def reference(
    saved_model: Path, shards: Path, evaluation: Path, out: Path, *, progress: Progress = silent
) -> DriftReference:
    """An accepted SavedModel and the test part -> what requests will be held against, to notice drift."""
    from pergola.components.evaluation.drift.reference import reference_of
    from pergola.components.evaluation.loaded_model import LoadedModel

    with LoadedModel(saved_model) as model:
        return reference_of(shards, evaluation, model.embeddings, out, progress=progress)


def register(
    decision: Path, export: Path, out: Path, *, record: RunRecord, tracking_uri: str
) -> Registration | None:
    """Note the run in the registry; an accepted model gets its version there, a rejected one None."""
    from pergola.components.release.registry import Registry

    registry = Registry(tracking_uri)
    run = registry.run(record.key, record.name)
    registry.log(run, params=record.params, metrics=record.metrics, tags=record.tags, files=record.files)
    registry.log_epochs(run, record.history)
    registration = None
    if Decision.load(decision).accepted:
        exported = Export.load(export)
        version = registry.register(record.name, run, export / "saved_model", sha256=exported.sha256)
        registration = Registration(record.name, version.version, run, exported.sha256)
        registration.save(out)
    registry.finish(run)
    return registration


def publish(registration: Path, saved_model: Path, reference: Path, out: Path, *, base: Path) -> Publication:
    """A registered SavedModel -> <base>/<model>/<version>/, with its reference of drift."""
    from pergola.components.store.publish import publish as put

    registered = Registration.load(registration)
    publication = put(saved_model, base, registered.model, registered.version, notes=reference)
    publication.save(out)
    return publication


def confirm(
    publication: Path,
    evaluation: Path,
    out: Path,
    *,
    client: Client,
    base: Path,
    tracking_uri: str,
    max_difference: float,
) -> Confirmation:
    """A published version -> the champion, once a server gave its golden answers."""
    from pergola.components.release.confirm import confirm as ask
    from pergola.components.release.registry import Registry

    confirmation = ask(
        client,
        GoldenRequests.load(evaluation),
        Publication.load(publication),
        base,
        Registry(tracking_uri),
        max_difference=max_difference,
    )
    confirmation.save(out)
    return confirmation
