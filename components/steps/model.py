"""From shards to a SavedModel, and what it is worth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.artifacts.decision import HELD, HELD_BY_REQUEST, Decision
from pergola.components.artifacts.evaluation import Evaluation, GoldenRequests
from pergola.components.artifacts.release import Champion
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.steps.context import Context

if TYPE_CHECKING:
    from pergola.components.evaluation.drift.reference import DriftReference
    from pergola.components.release.registry.versions import RegisteredVersion

log = logging.getLogger(__name__)


def augment(context: Context, out: Path, shards: Path) -> Augmentation:
    """Shards -> how training images are varied, and a contact sheet of it."""
    from pergola.components.training.augmentation.augment import augment as prepare

    settings = context.settings
    return prepare(shards, out, settings.augment, seed=settings.train.seed)


def train(context: Context, out: Path, shards: Path, augmentation: Path) -> Training:
    """Shards -> a trained network. Continues from what a killed run left in `out`.

    With TF_CONFIG in the environment this process is one worker of several, see
    components/training/distribution.py. All GPUs of a machine are used.
    """
    from pergola.components.release.registry.tracker import Tracker
    from pergola.components.training.fit import fit

    settings, workspace = context.settings, context.workspace
    last: dict[str, float] = {}
    tracking = (
        Tracker(workspace.tracking_uri, context.run.id, context.model) if context.track_epochs else None
    )

    def on_epoch(epoch: int, figures: Mapping[str, float]) -> None:
        last.update(figures)
        if tracking:
            tracking.epoch(epoch, figures)
        else:
            log.info("epoch=%d %s", epoch, " ".join(f"{k}={v:.4g}" for k, v in figures.items()))

    with tracking or nullcontext():
        training = fit(shards, augmentation, out, settings.model, settings.train, progress=context.progress,
                       on_epoch=on_epoch)  # fmt: skip
    if last:
        context.say(_speed(last))
    if tracking and tracking.problem:
        log.warning("epochs are not in the registry yet: %s", tracking.problem)
    return training


def export(context: Context, out: Path, training: Path, shards: Path) -> Export:
    """A trained network -> a SavedModel that takes encoded images."""
    from pergola.components.training.export import export as write

    return write(training, shards, out, context.settings.export)


def evaluate(
    context: Context, out: Path, export: Path, manifest: Path, shards: Path, split: Path
) -> Evaluation:
    """A SavedModel and the test split -> scores, overall, per class and by slice."""
    from pergola.components.evaluation.evaluate import evaluate as score
    from pergola.components.evaluation.export_notes import ExportNotes
    from pergola.components.evaluation.loaded_model import LoadedModel

    saved_model = export / "saved_model"
    with LoadedModel(saved_model) as model:
        explain = model.saliency if model.explains() else None
        model.contract().save(out)
        return score(model.probabilities, shards, split, out, context.settings.evaluate,
                     progress=context.progress, notes=ExportNotes.of(saved_model), manifest_folder=manifest,
                     explain=explain, reply=model.reply)  # fmt: skip


def champion(context: Context, out: Path, export: Path) -> Champion:
    """The version to beat: the champion, or the one before it when the champion is this very model.

    A run that reproduces a version has the champion of that time. A damaged or missing version is published
    again first. None when there is none, or it cannot be published again.
    """
    from pergola.components.release.anchor import keep_anchor

    found = _version_to_beat(context, Export.load(export).sha256)
    if found and (problem := _damage(context, found)):
        log.warning("champion=%s: nothing is compared with it: %s", found.version, problem)
        found = None
    record = Champion(None)
    if found:
        place = context.workspace.version(context.model, found.version)
        record = Champion(found.version, found.sha256, keep_anchor(place, out))
    record.save(out)
    return record


def evaluate_champion(
    context: Context, out: Path, champion: Path, shards: Path, split: Path
) -> Evaluation | None:
    """The version to beat -> its scores on the same images; None, and nothing written, without one."""
    from pergola.components.evaluation.evaluate import evaluate as score
    from pergola.components.evaluation.loaded_model import LoadedModel

    version = Champion.load(champion).version
    if version is None:
        return None
    with LoadedModel(_published(context, version)) as model:
        contract = model.contract()
        contract.save(out)
        return score(model.probabilities, shards, split, out, context.settings.evaluate,
                     progress=context.progress, model_labels=contract.labels, with_train=False)  # fmt: skip


def smoke_test(context: Context, out: Path, export: Path, evaluation: Path) -> SmokeTest:
    """A SavedModel -> what a real server answered with it to the golden requests."""
    golden, folder = GoldenRequests.load(evaluation), context.run.folder
    with context.smoke_test_server() as server:
        return server.smoke_test(
            export / "saved_model", golden, out, timing=folder / "smoke-test-latency.json" if folder else None
        )


def gate(
    context: Context,
    out: Path,
    validation: Path,
    evaluation: Path,
    champion: Path,
    champion_evaluation: Path,
    smoke_test: Path,
) -> Decision:
    """Findings, scores and smoke test -> may it ship, and does it replace the champion?"""
    from pergola.components.evaluation.gate.gate import GateInputs, decide
    from pergola.components.release.anchor import keep_answers

    settings = context.settings
    inputs = GateInputs.of(evaluation, champion, champion_evaluation, smoke_test, validation,
                           allow_contract_changes=settings.release.allow_contract_changes)  # fmt: skip
    decision = decide(inputs, settings.gate)
    if context.hold and decision.accepted:
        decision = replace(decision, accepted=False, outcome=HELD, reasons=(HELD_BY_REQUEST,))
    if inputs.costs and inputs.champion:
        inputs.costs.save(out)  # with the champion's; the evaluation has its own without
    keep_answers(decision, out, evaluation, champion, champion_evaluation)
    decision.save(out)
    return decision


def hold(context: Context) -> str:
    """What the gate depends on besides its inputs: whether an accepted model is to be held."""
    return "held" if context.hold else ""


def reference(context: Context, out: Path, export: Path, shards: Path, evaluation: Path) -> DriftReference:
    """A SavedModel to register, and the test split -> what requests are compared with, to notice drift."""
    from pergola.components.evaluation.drift.reference import reference_of
    from pergola.components.evaluation.loaded_model import LoadedModel

    with LoadedModel(export / "saved_model") as model:
        return reference_of(shards, evaluation, model.embeddings, out, progress=context.progress)


def _version_to_beat(context: Context, sha256: str) -> RegisteredVersion | None:
    from pergola.components.release import repair
    from pergola.components.release.registry.lookup import version_of

    uri = context.workspace.tracking_uri
    if context.reproduces is not None:
        version = Decision.load(context.reproduces).champion
        return version_of(uri, context.model, version) if version else None
    found = repair.champion(context.workspace, context.model)
    if found and found.sha256 == sha256:
        return version_of(uri, context.model, found.previous) if found.previous else None
    return found


def _damage(context: Context, version: RegisteredVersion) -> str:
    """What is wrong with a version's folder, after an attempt to repair it; empty if nothing is."""
    from pergola.components.release import repair
    from pergola.components.store.publish import damage_of

    folder = _published(context, version.version)
    if damage_of(folder, version.sha256) and (
        said := repair.repair(context.workspace, context.model, version.version)
    ):
        log.warning("%s", said)
    return damage_of(folder, version.sha256)


def _published(context: Context, version: int) -> Path:
    return context.workspace.models / context.model / str(version)


def _speed(figures: Mapping[str, float]) -> str:
    """How fast a training was, and how much of the time it waited for images."""
    return (
        f"{'':<18}{figures['images_per_s']:,.0f} images/s in {figures['seconds']:.0f} s of training steps, "
        f"{figures['input_wait']:.1%} of them waiting for input"
    )
