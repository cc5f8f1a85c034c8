"""From shards to a verdict as a pod runs it: paths and tables in, folders out."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components import code, digest, records, steps
from pergola.components.artifacts.data import Shards
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.pipelines.kubeflow.failures import noted
from pergola.pipelines.kubeflow.pod_workspace import Workspace, made, settings_of

if TYPE_CHECKING:
    from pergola.components.evaluation.drift.reference import DriftReference
    from pergola.components.release.versions import RegisteredVersion
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings
    from pergola.components.training.search.tune import Tuning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Champion(Record):
    """The version that a candidate has to beat, beside its evaluation on the same images."""

    FILE = "champion.json"

    version: int | None  # None: there is none, and no evaluation


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
    from pergola.components.training.augmentation.augment import AugmentSettings
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings
    from pergola.components.training.search.space import SECTIONS, Tuned
    from pergola.components.training.search.tune import TuneSettings

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
def augment(shards: str, out: str, settings: Mapping[str, Any], train: Mapping[str, Any]) -> Augmentation:
    """Shards -> how training images are varied, with the seed of the training."""
    from pergola.components.training.augmentation.augment import AugmentSettings
    from pergola.components.training.fit import TrainSettings

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
) -> Training:
    """Shards -> a trained network. A pod that takes over from one that died goes on where that was."""
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings

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
def export(training: str, shards: str, out: str, settings: Mapping[str, Any]) -> Export:
    """A trained network -> a SavedModel."""
    from pergola.components.training.export import ExportSettings

    wanted = settings_of(ExportSettings, settings, "export")
    return steps.export(Path(training), Path(shards), made(out), wanted)


@noted
def evaluate(
    export: str, manifest: str, shards: str, split: str, out: str, settings: Mapping[str, Any]
) -> Evaluation:
    """A SavedModel -> scores on the test part."""
    from pergola.components.evaluation.evaluate import EvaluateSettings

    wanted = settings_of(EvaluateSettings, settings, "evaluate")
    model = Path(export) / "saved_model"
    return steps.evaluate(model, Path(shards), Path(split), made(out), wanted, manifest=Path(manifest))


@noted
def champion(
    export: str, shards: str, split: str, out: str, settings: Mapping[str, Any], model: str, workspace: str
) -> Champion:
    """The version to beat, scored on the same images; none when there is none to compare with.

    A champion that is this very model gives way to the one before it.
    """
    from pergola.components.evaluation.evaluate import EvaluateSettings
    from pergola.components.release.registry import champion_of, version_of

    place, uri = Workspace(Path(workspace)), Workspace(Path(workspace)).tracking_uri()
    found: RegisteredVersion | None = champion_of(uri, model)
    if found and found.sha256 == Export.load(Path(export)).sha256:
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
def smoke_test(export: str, evaluation: str, out: str, settings: Mapping[str, Any]) -> SmokeTest:
    """A SavedModel -> what a real server answered with it."""
    from pergola.components.release.smoke_test import SmokeTestServer, SmokeTestSettings

    with SmokeTestServer(settings_of(SmokeTestSettings, settings, "smoke_test")) as smoke_test_server:
        return steps.smoke_test(smoke_test_server, Path(export) / "saved_model", Path(evaluation), made(out))


@noted
def gate(evaluation: str, champion: str, smoke_test: str, out: str, settings: Mapping[str, Any]) -> Decision:
    """Scores and smoke test -> may it ship."""
    from pergola.components.evaluation.gate.gate import GateSettings

    version = Champion.load(Path(champion)).version
    return steps.gate(
        Path(evaluation),
        Path(champion) if version else None,
        Path(smoke_test),
        made(out),
        settings_of(GateSettings, settings, "gate"),
        champion_version=version,
    )


@noted
def reference(export: str, shards: str, evaluation: str, out: str) -> DriftReference:
    """An accepted SavedModel -> what requests will be held against."""
    return steps.reference(Path(export) / "saved_model", Path(shards), Path(evaluation), made(out))


def training_key(shards: Path, augmentation: Path, settings: TrainSettings, network: ModelSettings) -> str:
    """By which a training that was cut off is found again: equal inputs, settings and code."""
    inputs = {
        "shards": Shards.load(shards).fingerprint,
        "augmentation": digest.of_folder(augmentation),
        "settings": [records.to_dict(settings), records.to_dict(network)],
        "code": code.of_step("train"),
    }
    return digest.of_data(inputs)[:20]


def log_epoch(epoch: int, values: Mapping[str, float]) -> None:
    """A line of the log for an epoch."""
    log.info("epoch=%d %s", epoch, json.dumps({k: round(float(v), 4) for k, v in values.items()}))
