"""Every step as a Kubeflow component. EDGE: kfp.

A component is a few lines: what it does is in pipelines/kubeflow/pod_data.py, pod_model.py and
pod_release.py, which also run without Kubeflow. Each has typed artifacts and one struct parameter with the
settings of its step, so that a change of the gate does not undo cached training. `code` is the digest of the
source a step reaches (components/code.py): it is not used, it makes the cache miss when the code changed.

The bodies are cut out of this file and run alone in the image, so they import all they use. This file
must not postpone annotations (`from __future__ import annotations`): kfp reads them.
"""

import functools
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import (
    HTML,
    Artifact,
    ClassificationMetrics,
    Dataset,
    Input,
    Markdown,
    Metrics,
    Model,
    Output,
)

IMAGE = "pergola"  # replaced by the one asked for when a pipeline is compiled

op = functools.partial(dsl.component, base_image=IMAGE, install_kfp_package=False)


@op
def settings(
    scan: dict[str, Any],
    validate: dict[str, Any],
    split: dict[str, Any],
    shards: dict[str, Any],
    augment: dict[str, Any],
    network: dict[str, Any],
    train: dict[str, Any],
    export: dict[str, Any],
    evaluate: dict[str, Any],
    smoke_test: dict[str, Any],
    gate: dict[str, Any],
    model: str,
) -> str:
    """All settings, checked before any work is done, as TOML."""
    from pergola.pipelines.kubeflow import pod_settings

    return pod_settings.settings(
        {
            "scan": scan,
            "validate": validate,
            "split": split,
            "shards": shards,
            "augment": augment,
            "model": network,
            "train": train,
            "export": export,
            "evaluate": evaluate,
            "smoke_test": smoke_test,
            "gate": gate,
        },
        model,
    )


@op
def listing(dataset: str, scan: dict[str, Any], workspace: str) -> str:
    """What images there are: a digest of names, sizes and times, by which the scan is reused."""
    from pergola.pipelines.kubeflow import pod_data

    return pod_data.listing(dataset, scan, workspace)


@op
def scan(
    dataset: str, listing: str, settings: dict[str, Any], workspace: str, code: str, manifest: Output[Dataset]
) -> None:
    """Images -> manifest."""
    from pergola.pipelines.kubeflow import pod_data

    found = pod_data.scan(dataset, manifest.path, settings, workspace)
    manifest.metadata.update(images=found.num_rows, fingerprint=found.fingerprint)


@op
def scan_part(
    dataset: str,
    listing: str,
    settings: dict[str, Any],
    index: int,
    count: int,
    workspace: str,
    code: str,
    part: Output[Dataset],
) -> None:
    """Every count-th image from the index-th on -> a part of the manifest."""
    from pergola.pipelines.kubeflow import pod_data

    pod_data.scan_part(dataset, part.path, settings, index, count, workspace)


@op
def merge_scans(parts: Input[list[Dataset]], code: str, manifest: Output[Dataset]) -> None:
    """All parts -> manifest."""
    from pergola.pipelines.kubeflow import pod_data

    found = pod_data.merge_scans([part.path for part in parts], manifest.path)
    manifest.metadata.update(images=found.num_rows, fingerprint=found.fingerprint)


@op
def validate(
    dataset: str,
    manifest: Input[Dataset],
    settings: dict[str, Any],
    scan: dict[str, Any],
    network: dict[str, Any],
    workspace: str,
    code: str,
    validation: Output[Artifact],
    page: Output[HTML],
    findings: Output[Markdown],
) -> None:
    """Manifest -> findings, as a record, a page with images and a table."""
    import shutil
    from pathlib import Path

    from pergola.pipelines.kubeflow import pod_data, visuals

    report = pod_data.validate(dataset, manifest.path, validation.path, settings, scan, network, workspace)
    shutil.copy(Path(validation.path) / "index.html", page.path)
    Path(findings.path).write_text(visuals.findings(report), encoding="utf-8")


@op
def split(
    manifest: Input[Dataset],
    validation: Input[Artifact],
    settings: dict[str, Any],
    model: str,
    workspace: str,
    code: str,
    split: Output[Dataset],
) -> None:
    """Manifest and findings -> which image is in which part. Fails for critical findings."""
    from pergola.pipelines.kubeflow import pod_data

    found = pod_data.split(manifest.path, validation.path, split.path, settings, model, workspace)
    split.metadata.update(found.counts)


@op
def shards(
    dataset: str,
    manifest: Input[Dataset],
    split: Input[Dataset],
    settings: dict[str, Any],
    scan: dict[str, Any],
    workspace: str,
    code: str,
    shards: Output[Dataset],
) -> None:
    """Images -> TFRecord shards."""
    from pergola.pipelines.kubeflow import pod_data

    found = pod_data.shards(dataset, manifest.path, split.path, shards.path, settings, scan, workspace)
    shards.metadata["classes"] = len(found.labels)


@op
def shards_part(
    dataset: str,
    manifest: Input[Dataset],
    split: Input[Dataset],
    settings: dict[str, Any],
    scan: dict[str, Any],
    index: int,
    count: int,
    workspace: str,
    code: str,
    part: Output[Dataset],
) -> None:
    """Every count-th file of the shards from the index-th on."""
    from pergola.pipelines.kubeflow import pod_data

    pod_data.shards_part(
        dataset, manifest.path, split.path, part.path, settings, scan, index, count, workspace
    )


@op
def merge_shards(
    parts: Input[list[Dataset]],
    manifest: Input[Dataset],
    split: Input[Dataset],
    settings: dict[str, Any],
    code: str,
    shards: Output[Dataset],
) -> None:
    """All parts -> TFRecord shards."""
    from pergola.pipelines.kubeflow import pod_data

    folders = [part.path for part in parts]
    found = pod_data.merge_shards(folders, manifest.path, split.path, shards.path, settings)
    shards.metadata["classes"] = len(found.labels)


@op
def tune(
    shards: Input[Dataset],
    augment: dict[str, Any],
    network: dict[str, Any],
    train: dict[str, Any],
    search: dict[str, Any],
    model: str,
    workspace: str,
    accelerator: str,
    accelerator_count: str,
    code: str,
    trials: Output[Markdown],
) -> NamedTuple("Tuned", [("augment", dict), ("network", dict), ("train", dict)]):  # type: ignore
    """Shards -> the sections of settings that a search found best on the validation part."""
    from pathlib import Path

    from pergola.pipelines.kubeflow import pod_model, visuals

    found, tuning = pod_model.tune(shards.path, augment, network, train, search, model, workspace)
    Path(trials.path).write_text(visuals.trials(tuning), encoding="utf-8")
    return found["augment"], found["model"], found["train"]


@op
def augment(
    shards: Input[Dataset],
    settings: dict[str, Any],
    train: dict[str, Any],
    code: str,
    augmentation: Output[Artifact],
) -> None:
    """Shards -> how training images are varied, with the seed of the training."""
    from pergola.pipelines.kubeflow import pod_model

    pod_model.augment(shards.path, augmentation.path, settings, train)


@op
def train(
    shards: Input[Dataset],
    augmentation: Input[Artifact],
    settings: dict[str, Any],
    architecture: dict[str, Any],
    model: str,
    workspace: str,
    accelerator: str,
    accelerator_count: str,
    code: str,
    training: Output[Model],
) -> None:
    """Shards -> a trained network.

    accelerator and its count are inputs because kfp 2.17 drops parameters that only resources use
    when a task lies in an exit handler or a condition.
    """
    from pergola.pipelines.kubeflow import pod_model

    made = pod_model.train(
        shards.path, augmentation.path, training.path, settings, architecture, model, workspace
    )
    training.metadata.update(architecture=made.architecture, epochs=made.epochs, best_epoch=made.best_epoch)


@op
def train_workers(
    shards: Input[Dataset],
    augmentation: Input[Artifact],
    settings: dict[str, Any],
    architecture: dict[str, Any],
    model: str,
    workspace: str,
    workers: dict[str, Any],
    accelerator: str,
    accelerator_count: str,
    node_selector: dict[str, Any],
    tolerations: list[Any],
    code: str,
    training: Output[Model],
) -> None:
    """Shards -> a network that the workers of a TrainJob trained together."""
    from pergola.pipelines.kubeflow import pod_workers

    asked = {
        **workers,
        "accelerator": accelerator,
        "accelerator_count": accelerator_count,
        "node_selector": node_selector,
        "tolerations": tolerations,
    }
    made = pod_workers.train_workers(
        shards.path, augmentation.path, training.path, settings, architecture, model, workspace, asked
    )
    training.metadata.update(architecture=made.architecture, epochs=made.epochs, best_epoch=made.best_epoch)


@op
def export(
    training: Input[Model],
    shards: Input[Dataset],
    settings: dict[str, Any],
    code: str,
    export: Output[Model],
) -> None:
    """A trained network -> a SavedModel."""
    from pergola.pipelines.kubeflow import pod_model

    made = pod_model.export(training.path, shards.path, export.path, settings)
    export.metadata.update(sha256=made.sha256, bytes=made.num_bytes)


@op
def evaluate(
    export: Input[Model],
    manifest: Input[Dataset],
    shards: Input[Dataset],
    split: Input[Dataset],
    settings: dict[str, Any],
    code: str,
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
    roc: Output[ClassificationMetrics],
) -> None:
    """A SavedModel -> scores on the test part, and how Kubeflow shows them."""
    from pathlib import Path

    from pergola.components.evaluation import figures
    from pergola.pipelines.kubeflow import pod_model, visuals

    scores = pod_model.evaluate(
        export.path, manifest.path, shards.path, split.path, evaluation.path, settings
    )
    for name, value in figures.of(Path(evaluation.path)).items():
        if value is not None:
            metrics.log_metric(name, value)
    if matrix := visuals.confusion(scores):
        confusion.log_confusion_matrix(*matrix)
    if curve := visuals.roc(Path(evaluation.path)):
        roc.log_roc_curve(*curve)


@op
def champion(
    export: Input[Model],
    shards: Input[Dataset],
    split: Input[Dataset],
    settings: dict[str, Any],
    model: str,
    workspace: str,
    champion: Output[Artifact],
) -> None:
    """The version to beat, scored on the same images, if there is one."""
    from pergola.pipelines.kubeflow import pod_model

    found = pod_model.champion(
        export.path, shards.path, split.path, champion.path, settings, model, workspace
    )
    champion.metadata["version"] = found.version or 0


@op
def smoke_test(
    export: Input[Model],
    evaluation: Input[Artifact],
    settings: dict[str, Any],
    code: str,
    smoke_test: Output[Artifact],
) -> None:
    """A SavedModel -> what a real server answered with it."""
    from pergola.pipelines.kubeflow import pod_model

    pod_model.smoke_test(export.path, evaluation.path, smoke_test.path, settings)


@op
def gate(
    evaluation: Input[Artifact],
    champion: Input[Artifact],
    smoke_test: Input[Artifact],
    settings: dict[str, Any],
    code: str,
    decision: Output[Artifact],
    verdict: Output[Markdown],
) -> str:
    """Scores and smoke test -> "accepted" or "rejected"."""
    from pathlib import Path

    from pergola.pipelines.kubeflow import pod_model, visuals

    found = pod_model.gate(evaluation.path, champion.path, smoke_test.path, decision.path, settings)
    Path(verdict.path).write_text(visuals.verdict(found), encoding="utf-8")
    return "accepted" if found.accepted else "rejected"


@op
def report(
    manifest: Input[Dataset],
    validation: Input[Artifact],
    split: Input[Dataset],
    shards: Input[Dataset],
    augmentation: Input[Artifact],
    training: Input[Model],
    export: Input[Model],
    evaluation: Input[Artifact],
    smoke_test: Input[Artifact],
    champion: Input[Artifact],
    decision: Input[Artifact],
    model: str,
    settings: str,
    code: str,
    report: Output[HTML],
) -> None:
    """All that a run found out -> one page."""
    import shutil
    import tempfile

    from pergola.pipelines.kubeflow import pod_release

    folders = pod_release.Shown.of(
        manifest=manifest.path,
        validation=validation.path,
        split=split.path,
        shards=shards.path,
        augmentation=augmentation.path,
        training=training.path,
        export=export.path,
        evaluation=evaluation.path,
        smoke_test=smoke_test.path,
        champion=champion.path,
        decision=decision.path,
    )
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(pod_release.report(folders, scratch, model, settings), report.path)


@op
def reference(
    export: Input[Model],
    shards: Input[Dataset],
    evaluation: Input[Artifact],
    code: str,
    reference: Output[Artifact],
) -> None:
    """An accepted SavedModel -> what requests will be held against, to notice drift."""
    from pergola.pipelines.kubeflow import pod_model

    found = pod_model.reference(export.path, shards.path, evaluation.path, reference.path)
    reference.metadata["images"] = found.num_images


@op
def register(
    manifest: Input[Dataset],
    validation: Input[Artifact],
    split: Input[Dataset],
    training: Input[Model],
    export: Input[Model],
    evaluation: Input[Artifact],
    decision: Input[Artifact],
    report: Input[HTML],
    dataset: str,
    model: str,
    settings: str,
    asked: str,
    workspace: str,
    registration: Output[Artifact],
) -> None:
    """Note the run in the registry; an accepted model gets its version there."""
    from pergola.pipelines.kubeflow import pod_release

    folders = pod_release.Told.of(
        manifest=manifest.path,
        validation=validation.path,
        split=split.path,
        training=training.path,
        export=export.path,
        evaluation=evaluation.path,
        decision=decision.path,
        report=report.path,
    )
    version = pod_release.register(
        folders,
        registration.path,
        model=model,
        settings=settings,
        asked=asked,
        dataset=dataset,
        workspace=workspace,
    )
    registration.metadata["version"] = version or 0


@op
def publish(
    registration: Input[Artifact],
    export: Input[Model],
    reference: Input[Artifact],
    workspace: str,
    publication: Output[Artifact],
) -> None:
    """A registered SavedModel -> the folder that servers watch."""
    from pergola.pipelines.kubeflow import pod_release

    done = pod_release.publish(registration.path, export.path, reference.path, publication.path, workspace)
    publication.metadata["version"] = done.version


@op
def confirm(
    publication: Input[Artifact],
    evaluation: Input[Artifact],
    gate: dict[str, Any],
    smoke_test: dict[str, Any],
    workspace: str,
    confirmation: Output[Artifact],
) -> None:
    """A published version -> the champion, once a server gave the golden answers with it."""
    from pergola.pipelines.kubeflow import pod_release

    done = pod_release.confirm(
        publication.path, evaluation.path, confirmation.path, gate, smoke_test, workspace
    )
    confirmation.metadata["version"] = done.version


@op
def deliver(
    confirmation: Input[Artifact],
    manifest: Input[Dataset],
    store: str,
    release: bool,
    settings: str,
    workspace: str,
) -> str:
    """A confirmed version -> the model store, if one is named. Says what was done."""
    from pergola.pipelines.kubeflow import pod_release

    return pod_release.deliver(confirmation.path, manifest.path, store, release, settings, workspace)


@op
def changes(
    manifest: Input[Dataset],
    model: str,
    settings: str,
    retrain: dict[str, Any],
    workspace: str,
    why: Output[Markdown],
) -> str:
    """Whether it is time for a run, for new images, drift or age: "changed" or "unchanged"."""
    from pathlib import Path

    from pergola.pipelines.kubeflow import pod_release

    state, reason = pod_release.changes(manifest.path, model, settings, retrain, workspace)
    Path(why.path).write_text(reason + "\n", encoding="utf-8")
    return state


@op
def finish(
    status: dsl.PipelineTaskFinalStatus, run: str, run_id: str, model: str, workspace: str, ui: str
) -> None:
    """Tell how the run ended, to the webhook in PERGOLA_WEBHOOK_URL if there is one."""
    from pergola.pipelines.kubeflow import failures
    from pergola.pipelines.kubeflow.notify import Ending, notify

    failed = status.state != "SUCCEEDED"
    error = (failures.read(run_id, workspace) or status.error_message or "") if failed else ""
    link = f"{ui.rstrip('/')}/#/runs/details/{run_id}" if ui else ""
    notify(Ending(run, model, status.state, error, link))
