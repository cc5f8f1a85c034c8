"""The model steps of the walk: what goes in, what they depend on, what comes out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pergola.components import digest, records, steps
from pergola.components.artifacts.training import Export
from pergola.components.evaluation.costs import read_text
from pergola.components.release.registry import champion_of, version_of
from pergola.components.release.tracker import Tracker
from pergola.components.release.versions import RegisteredVersion
from pergola.pipelines.local import summaries
from pergola.pipelines.local.reuse import Output
from pergola.pipelines.local.walk import Data, Walk

log = logging.getLogger(__name__)


def augment(walk: Walk, shards: Output) -> Output:
    """Shards -> how training images are varied."""
    settings = walk.settings
    return walk.steps.run(
        "augment",
        lambda out: steps.augment(shards.folder, out, settings.augment, seed=settings.train.seed),
        inputs={"shards": shards.sha256, "seed": str(settings.train.seed)},
        settings=settings.augment,
    )


def train(walk: Walk, shards: Output, augmentation: Output) -> Output:
    """Shards -> a trained network. What was cut off goes on where it was."""
    settings = walk.settings
    return walk.steps.run(
        "train",
        partial(_train, walk, shards, augmentation),
        inputs={"shards": shards.sha256, "augmentation": augmentation.sha256,
                "model": digest.of_data(records.to_dict(settings.model)),
                "weights": digest.of_named_file(settings.model.weights)},
        settings=settings.train,
        resumes=True,
    )  # fmt: skip


def export(walk: Walk, shards: Output, training: Output) -> Output:
    """A trained network -> a SavedModel."""
    settings = walk.settings.export
    costs = digest.of_data(read_text(settings.costs)) if settings.costs else None
    return walk.steps.run(
        "export",
        lambda out: steps.export(training.folder, shards.folder, out, settings),
        inputs={"training": training.sha256, "shards": shards.sha256, "costs": costs},
        settings=dataclasses.replace(settings, costs=""),  # their text counts, not where it lies
    )


def evaluate(walk: Walk, data: Data, export: Output) -> Output:
    """A SavedModel -> scores on the test part."""
    return _evaluate(walk, data, "evaluate", export.folder / "saved_model", export.sha256)


def evaluate_champion(walk: Walk, data: Data, champion: RegisteredVersion | None) -> Output | None:
    """The version to beat -> its scores on the same images."""
    if champion is None:
        return None
    return _evaluate(walk, data, "champion", _published(walk, champion), champion.sha256)


def champion(walk: Walk, export: Output) -> RegisteredVersion | None:
    """The version to beat: the champion, or the one before it when the champion is this very model.

    For a run that is like a version's, the one that it was compared with.
    """
    uri = walk.workspace.tracking_uri
    champion = champion_of(uri, walk.model)
    if walk.like:
        champion = version_of(uri, walk.model, walk.like.champion) if walk.like.champion else None
    elif champion and champion.sha256 == Export.load(export.folder).sha256:
        champion = version_of(uri, walk.model, champion.previous) if champion.previous else None
    if champion and not _published(walk, champion).is_dir():
        log.warning(
            "champion=%s is not in %s, so it is not compared with", champion.version, walk.workspace.models
        )
        return None
    return champion


def _train(walk: Walk, shards: Output, augmentation: Output, out: Path) -> None:
    walk.smoke_test_server.start()  # its TensorFlow loads while this process trains
    settings = walk.settings
    speed: dict[str, float] = {}

    def on_epoch(epoch: int, figures: Mapping[str, float]) -> None:
        tracker.epoch(epoch, figures)
        speed.update(figures)

    with Tracker(walk.workspace.tracking_uri, walk.run.id, walk.model) as tracker:
        steps.train(shards.folder, augmentation.folder, out, settings.train, model=settings.model,
                    progress=walk.show.progress, on_epoch=on_epoch)  # fmt: skip
    if speed:
        walk.show.say(summaries.of_speed(speed))
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


def _published(walk: Walk, version: RegisteredVersion) -> Path:
    return walk.workspace.models / version.model / str(version.version)
