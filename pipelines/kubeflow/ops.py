"""Components of tasks that are not steps of the pipeline. EDGE: kfp.

kfp copies the bodies out of this file and runs them alone in the image, so each imports what it uses. This
file must not postpone annotations (`from __future__ import annotations`): kfp reads them.
"""

import functools
from typing import Any, NamedTuple

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Markdown, Model, Output

from pergola.pipelines.kubeflow.components import IMAGE

op = functools.partial(dsl.component, base_image=IMAGE, install_kfp_package=False)


@op
def tune(
    shards: Input[Dataset],
    settings: str,
    search: dict[str, Any],
    dataset: str,
    model: str,
    workspace: str,
    accelerator: str,
    accelerator_count: str,
    code: str,
    trials: Output[Markdown],
) -> NamedTuple("Tuned", [("augment", dict), ("network", dict), ("train", dict), ("settings", str)]):  # type: ignore
    """Shards -> the settings that a search found best on the validation split."""
    from pergola.pipelines.kubeflow import tasks

    return tasks.tune(locals())


@op
def train_workers(
    shards: Input[Dataset],
    augmentation: Input[Artifact],
    train_settings: dict[str, Any],
    model_settings: dict[str, Any],
    dataset: str,
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
    from pergola.pipelines.kubeflow import workers as training

    training.train_workers(locals())


@op
def changes(
    manifest: Input[Dataset],
    dataset: str,
    model: str,
    workspace: str,
    settings: str,
    retrain_settings: dict[str, Any],
    why: Output[Markdown],
) -> str:
    """Whether a run is due, for new images, drift or age: "changed" or "unchanged"."""
    from pergola.pipelines.kubeflow import tasks

    return tasks.changes(locals())


@op
def finish(
    status: dsl.PipelineTaskFinalStatus, run: str, run_id: str, model: str, workspace: str, ui: str
) -> None:
    """Report how the run ended, to the webhook in PERGOLA_WEBHOOK_URL if there is one."""
    from pergola.pipelines.kubeflow import failures
    from pergola.pipelines.kubeflow.notify import Ending, notify

    failed = status.state != "SUCCEEDED"
    error = (failures.read(run_id, workspace) or status.error_message or "") if failed else ""
    link = f"{ui.rstrip('/')}/#/runs/details/{run_id}" if ui else ""
    notify(Ending(run, model, status.state, error, link))
