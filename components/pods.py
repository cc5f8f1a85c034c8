"""Each step as a pod runs it: paths and plain tables in, folders out.

components/ops.py wraps each function here as a Kubeflow component; nothing here knows of Kubeflow, so
all of it can be tried without. Tables become settings (Kubeflow hands integers over as floats, which
components/records.py mends), and what outlives a pod has its place in the workspace, a volume:

    <workspace>/
      scratch/                 what helps the next scan
      models/<model>/<N>/      published versions
      versions/<model>/<N>/    what each was made of
      state/<model>/           the last split, the last run, training that was cut off
      drift/<model>/<N>/       looks at drift, if `pergola drift` has this workspace
      mlflow.db, mlartifacts/  the registry, unless MLFLOW_TRACKING_URI names a server
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components import artifacts, code, digest, records, steps
from components.data.scan import ScanSettings
from components.errors import InputError
from components.failures import noted

if TYPE_CHECKING:
    from components.evaluation.drift_reference import DriftReference
    from components.release.versions import Version
    from components.training.architectures import ModelSettings
    from components.training.fit import TrainSettings
    from components.training.tune import Tuning

T = TypeVar("T")

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workspace:
    """The folders of a workspace volume."""

    root: Path

    @property
    def scratch(self) -> Path:
        """What helps the next scan."""
        return self.root / "scratch"

    @property
    def models(self) -> Path:
        """Published versions."""
        return self.root / "models"

    def state(self, model: str) -> Path:
        """What one run of a model leaves for the next."""
        return self.root / "state" / model

    def version(self, model: str, version: int) -> Path:
        """What a version was made of, see components/release/dossier.py."""
        return self.root / "versions" / model / str(version)

    def drift(self, model: str) -> Path:
        """Looks at drift of a model's versions, as `pergola drift` leaves them."""
        return self.root / "drift" / model

    def tracking_uri(self) -> str:
        """The registry: $MLFLOW_TRACKING_URI, otherwise a database in the workspace."""
        return os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{(self.root / 'mlflow.db').absolute()}"


@dataclass(frozen=True)
class Champion(artifacts.Record):
    """The version that a candidate has to beat, beside its evaluation on the same pictures."""

    FILE = "champion.json"

    version: int | None  # None: there is none, and no evaluation


def settings_of(cls: type[T], table: Mapping[str, Any], name: str) -> T:
    """A section of settings from a component's struct parameter."""
    return records.from_dict(cls, table, f"parameter {name}")


@noted
def listing(photos: str, scan: Mapping[str, Any], workspace: str) -> str:
    """SHA-256 over the names, sizes and times of the pictures: what a scan is reused by."""
    from components.data.sources import open_source

    source = open_source(
        Path(photos), settings_of(ScanSettings, scan, "scan"), Workspace(Path(workspace)).scratch
    )
    listed = ((e.path, e.label, e.given_split, *e.stamp) for e in source.entries())
    relabel = settings_of(ScanSettings, scan, "scan").relabel
    corrections = digest.of_file(Path(relabel)) if relabel and Path(relabel).is_file() else relabel
    return digest.of_rows([*listed, ("relabel", corrections)] if corrections else listed)


@noted
def scan(photos: str, out: str, settings: Mapping[str, Any], workspace: str) -> artifacts.Manifest:
    """Pictures -> manifest."""
    scratch = Workspace(Path(workspace)).scratch
    return steps.scan(Path(photos), made(out), settings_of(ScanSettings, settings, "scan"), scratch=scratch)


@noted
def scan_part(
    photos: str, out: str, settings: Mapping[str, Any], index: int, count: int, workspace: str
) -> None:
    """Every `count`-th picture -> a part of the manifest."""
    wanted = settings_of(ScanSettings, settings, "scan")
    scratch = Workspace(Path(workspace)).scratch
    steps.scan_part(Path(photos), made(out), wanted, int(index), int(count), scratch=scratch)


@noted
def merge_scans(parts: Sequence[str], out: str) -> artifacts.Manifest:
    """All parts -> manifest."""
    return steps.merge_scans([Path(part) for part in parts], made(out))


@noted
def validate(
    photos: str,
    manifest: str,
    out: str,
    settings: Mapping[str, Any],
    scan: Mapping[str, Any],
    network: Mapping[str, Any],
    workspace: str,
) -> artifacts.ValidationReport:
    """Manifest and pictures -> findings and a page.

    A critical finding stops the run at the split, not here, so that the page can be seen.
    """
    from components.data.validate import ValidateSettings
    from components.training.architectures import ModelSettings

    model = settings_of(ModelSettings, network, "network")
    return steps.validate(
        Path(photos),
        Path(manifest),
        made(out),
        settings_of(ValidateSettings, settings, "validate"),
        scan=settings_of(ScanSettings, scan, "scan"),
        scratch=Workspace(Path(workspace)).scratch,
        architecture=model.architecture,
        weights=model.weights,
    )


@noted
def split(
    manifest: str, validation: str, out: str, settings: Mapping[str, Any], model: str, workspace: str
) -> artifacts.Split:
    """Which picture is in which part; pictures of the last run of this model stay where they were.

    Raises InputError for critical findings.
    """
    from components.data.split import SplitSettings

    _stop_if_critical(Path(validation))
    wanted = settings_of(SplitSettings, settings, "split")
    key = digest.of_data(records.to_dict(wanted))[:20]
    kept = Workspace(Path(workspace)).state(model) / f"split-{key}"
    previous = kept if (kept / artifacts.Split.FILE).is_file() else None
    result = steps.split(Path(manifest), Path(validation), made(out), wanted, previous=previous)
    replace(kept, Path(out))
    return result


@noted
def shards(
    photos: str,
    manifest: str,
    split: str,
    out: str,
    settings: Mapping[str, Any],
    scan: Mapping[str, Any],
    workspace: str,
) -> artifacts.Shards:
    """Pictures, manifest and split -> TFRecord shards."""
    from components.data.shards import ShardSettings

    return steps.shards(
        Path(photos),
        Path(manifest),
        Path(split),
        made(out),
        settings_of(ShardSettings, settings, "shards"),
        scan=settings_of(ScanSettings, scan, "scan"),
        scratch=Workspace(Path(workspace)).scratch,
    )


@noted
def shards_part(
    photos: str,
    manifest: str,
    split: str,
    out: str,
    settings: Mapping[str, Any],
    scan: Mapping[str, Any],
    index: int,
    count: int,
    workspace: str,
) -> None:
    """Every `count`-th file of the shards."""
    from components.data.shards import ShardSettings

    steps.shards_part(
        Path(photos),
        Path(manifest),
        Path(split),
        made(out),
        settings_of(ShardSettings, settings, "shards"),
        int(index),
        int(count),
        scan=settings_of(ScanSettings, scan, "scan"),
        scratch=Workspace(Path(workspace)).scratch,
    )


@noted
def merge_shards(
    parts: Sequence[str], manifest: str, split: str, out: str, settings: Mapping[str, Any]
) -> artifacts.Shards:
    """All parts -> TFRecord shards."""
    from components.data.shards import ShardSettings

    wanted = settings_of(ShardSettings, settings, "shards")
    folders = [Path(part) for part in parts]
    return steps.merge_shards(folders, Path(manifest), Path(split), made(out), wanted)


@noted
def tune(
    shards: str,
    augment: Mapping[str, Any],
    network: Mapping[str, Any],
    train: Mapping[str, Any],
    search: Mapping[str, Any],
    model: str,
    workspace: str,
) -> tuple[dict[str, dict[str, Any]], Tuning]:
    """Shards -> the best settings of a search by section, without empty ones, and all its trials.

    The search is kept in the workspace: one that was cut off goes on, and more trials add to it.
    """
    from components.training.architectures import ModelSettings
    from components.training.augment import AugmentSettings
    from components.training.fit import TrainSettings
    from components.training.space import SECTIONS, Tuned
    from components.training.tune import TuneSettings

    base = Tuned(
        augment=settings_of(AugmentSettings, augment, "augment"),
        model=settings_of(ModelSettings, network, "network"),
        train=settings_of(TrainSettings, train, "train"),
    )
    place = Workspace(Path(workspace))
    wanted = settings_of(TuneSettings, search, "search")
    tuning = steps.tune(
        Path(shards), place.state(model) / "tuning", wanted, base=base, tracking_uri=place.tracking_uri(),
        key=f"tune-{model}",
    )  # fmt: skip
    best = records.to_dict(base.changed(tuning.best.values))
    return {name: {k: v for k, v in best[name].items() if v is not None} for name in SECTIONS}, tuning


@noted
def augment(
    shards: str, out: str, settings: Mapping[str, Any], train: Mapping[str, Any]
) -> artifacts.Augmentation:
    """Shards -> how training pictures are varied, with the seed of the training."""
    from components.training.augment import AugmentSettings
    from components.training.fit import TrainSettings

    wanted = settings_of(AugmentSettings, settings, "augment")
    seed = settings_of(TrainSettings, train, "train").seed
    return steps.augment(Path(shards), made(out), wanted, seed=seed)


@noted
def train(
    shards: str,
    augmentation: str,
    out: str,
    settings: Mapping[str, Any],
    architecture: Mapping[str, Any],
    model: str,
    workspace: str,
) -> artifacts.Training:
    """Shards -> a trained network. A pod that takes over from one that died goes on where that was."""
    from components.training.architectures import ModelSettings
    from components.training.fit import TrainSettings

    wanted = settings_of(TrainSettings, settings, "train")
    network = settings_of(ModelSettings, architecture, "model")
    key = training_key(Path(shards), Path(augmentation), wanted, network)
    work = Workspace(Path(workspace)).state(model) / f"training-{key}"
    work.mkdir(parents=True, exist_ok=True)
    training = steps.train(Path(shards), Path(augmentation), work, wanted, model=network, on_epoch=log_epoch)
    shutil.copytree(work, made(out), dirs_exist_ok=True)
    shutil.rmtree(work, ignore_errors=True)
    return training


@noted
def export(training: str, shards: str, out: str, settings: Mapping[str, Any]) -> artifacts.Export:
    """A trained network -> a SavedModel."""
    from components.training.export import ExportSettings

    wanted = settings_of(ExportSettings, settings, "export")
    return steps.export(Path(training), Path(shards), made(out), wanted)


@noted
def evaluate(
    export: str, manifest: str, shards: str, split: str, out: str, settings: Mapping[str, Any]
) -> artifacts.Evaluation:
    """A SavedModel -> scores on the test part."""
    from components.evaluation.evaluate import EvaluateSettings

    wanted = settings_of(EvaluateSettings, settings, "evaluate")
    model = Path(export) / "saved_model"
    return steps.evaluate(model, Path(shards), Path(split), made(out), wanted, manifest=Path(manifest))


@noted
def champion(
    export: str, shards: str, split: str, out: str, settings: Mapping[str, Any], model: str, workspace: str
) -> Champion:
    """The version to beat, scored on the same pictures; none when there is none to compare with.

    A champion that is this very model gives way to the one before it.
    """
    from components.evaluation.evaluate import EvaluateSettings
    from components.release.registry import champion_of, version_of

    place, uri = Workspace(Path(workspace)), Workspace(Path(workspace)).tracking_uri()
    found: Version | None = champion_of(uri, model)
    if found and found.sha256 == artifacts.Export.load(Path(export)).sha256:
        found = version_of(uri, model, found.previous) if found.previous else None
    folder = place.models / model / str(found.version) if found else None
    if folder and not folder.is_dir():
        log.warning(
            "champion=%s is not in %s, so it is not compared with", found and found.version, place.models
        )
        folder = None
    if folder:
        wanted = settings_of(EvaluateSettings, settings, "evaluate")
        steps.evaluate(folder, Path(shards), Path(split), made(out), wanted, champion=True)
    result = Champion(found.version if found and folder else None)
    result.save(made(out))
    return result


@noted
def rehearse(export: str, evaluation: str, out: str, settings: Mapping[str, Any]) -> artifacts.Rehearsal:
    """A SavedModel -> what a real server answered with it."""
    from components.release.rehearse import Rehearsals, RehearseSettings

    with Rehearsals(settings_of(RehearseSettings, settings, "rehearse")) as rehearsals:
        return steps.rehearse(rehearsals, Path(export) / "saved_model", Path(evaluation), made(out))


@noted
def gate(
    evaluation: str, champion: str, rehearsal: str, out: str, settings: Mapping[str, Any]
) -> artifacts.Decision:
    """Scores and rehearsal -> may it ship."""
    from components.evaluation.gate import GateSettings

    version = Champion.load(Path(champion)).version
    return steps.gate(
        Path(evaluation),
        Path(champion) if version else None,
        Path(rehearsal),
        made(out),
        settings_of(GateSettings, settings, "gate"),
        champion_version=version,
    )


@noted
def reference(export: str, shards: str, evaluation: str, out: str) -> DriftReference:
    """An accepted SavedModel -> what requests will be held against."""
    return steps.reference(Path(export) / "saved_model", Path(shards), Path(evaluation), made(out))


def _stop_if_critical(validation: Path) -> None:
    found = artifacts.ValidationReport.load(validation)
    if not found.ok:
        critical = " ".join(f.message for f in found.findings if f.severity == artifacts.CRITICAL)
        raise InputError(f"The data cannot be used: {critical} The page of the validate step shows them.")


def training_key(shards: Path, augmentation: Path, settings: TrainSettings, network: ModelSettings) -> str:
    """By which a training that was cut off is found again: equal inputs, settings and code."""
    inputs = {
        "shards": artifacts.Shards.load(shards).fingerprint,
        "augmentation": digest.of_folder(augmentation),
        "settings": [records.to_dict(settings), records.to_dict(network)],
        "code": code.of_step("train"),
    }
    return digest.of_data(inputs)[:20]


def made(out: str) -> Path:
    """An artifact's folder, made."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def replace(target: Path, source: Path) -> None:
    """Have `target` be a copy of `source`, whole or not at all."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


def log_epoch(epoch: int, values: Mapping[str, float]) -> None:
    """A line of the log for an epoch."""
    log.info("epoch=%d %s", epoch, json.dumps({k: round(float(v), 4) for k, v in values.items()}))
