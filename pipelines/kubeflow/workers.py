"""Training by several workers: the task that creates a TrainJob, and the workers of that job.

The task puts the workers' inputs into a folder of the workspace, which all of them mount:

    <workspace>/state/<model>/workers-<key>/
      request.json              settings
      shards/  augmentation/    inputs
      training/                 their output; a retry continues from here

Each worker is `python3 -P -m pergola.pipelines.kubeflow.workers FOLDER`. TensorFlow finds the other workers
in TF_CONFIG, which is derived from the pod's environment.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.training import Training
from pergola.components.errors import InputError, PergolaError, StepError
from pergola.components.steps.data import replace_folder
from pergola.pipelines.definition import TRAINING
from pergola.pipelines.kubeflow import failures, pod, visuals

PORT = 2222
JOB_VARIABLE, COUNT_VARIABLE = "PERGOLA_TRAINJOB", "PERGOLA_WORKERS"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"  # set by Kubernetes
NAMESPACE_VARIABLE, POD_VARIABLE, UID_VARIABLE = "PERGOLA_NAMESPACE", "PERGOLA_POD", "PERGOLA_POD_UID"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerPods:
    """Pods of a TrainJob."""

    count: int = records.setting(2, "workers", low=1, high=1024)
    image: str = records.setting("", "of the workers")
    runtime: str = records.setting("pergola-train", "TrainingRuntime of the pods")
    cpu: str = records.setting("2", "processors that a worker requests")
    memory: str = records.setting("4Gi", "memory that a worker requests")
    memory_limit: str = records.setting("16Gi", "memory above which a worker is killed")
    accelerator: str = records.setting("nvidia.com/gpu", "resource name of accelerators")
    accelerator_count: str = records.setting("0", "accelerators of each worker")
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class TrainRequest(Record):
    """Settings of a training by workers."""

    FILE = "request.json"

    settings: dict[str, Any]
    architecture: dict[str, Any]


def train_workers(given: Mapping[str, Any]) -> Training:
    """Shards -> a network that several workers trained together. A retry continues an interrupted training.

    given: the arguments of the component of this name, see ops.py.
    """
    with failures.recorded("train"):
        step, context = TRAINING.by_name["train"], pod.context_of(given)
        inputs = {name: Path(given[name].path) for name in step.inputs}
        key = pod.resume_key(step, context, inputs)
        folder = context.workspace.state(context.model) / f"workers-{key}"
        settings = context.settings
        request = TrainRequest(records.to_dict(settings.train), records.to_dict(settings.model))
        _prepare(folder, inputs, request)
        _run(_job(_worker_pods(given), context.model, key, folder))
        training = Training.load(folder / "training")
        shutil.copytree(folder / "training", pod.folder_of(given["training"].path), dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    visuals.show("train", Path(given["training"].path), given)
    return training


def work(folder: Path, environment: Mapping[str, str]) -> None:
    """One worker, to the end of the training. Worker 0 writes."""
    os.environ["TF_CONFIG"] = tf_config(environment)

    from pergola.components.training.fit import TrainSettings, fit
    from pergola.components.training.models.architectures import ModelSettings

    request = TrainRequest.load(folder)
    train = records.from_dict(TrainSettings, request.settings, "train")
    model = records.from_dict(ModelSettings, request.architecture, "model")
    fit(folder / "shards", folder / "augmentation", folder / "training", model, train, on_epoch=_log_epoch)


def tf_config(environment: Mapping[str, str]) -> str:
    """TF_CONFIG of a worker: all workers' addresses and its own index, as JSON.

    environment: the job's name and the number of workers, set by us, and the pod's index, set by Kubernetes.
    Raises InputError for a variable that is missing or not a number.
    """
    try:
        job, count = environment[JOB_VARIABLE], int(environment[COUNT_VARIABLE])
        index = int(environment[INDEX_VARIABLE])
    except KeyError as error:
        raise InputError(
            f"This is not a pod of a TrainJob: the variable {error.args[0]} is not set."
        ) from None
    except ValueError as error:
        raise InputError(f"{COUNT_VARIABLE} and {INDEX_VARIABLE} must be whole numbers: {error}.") from None
    if not 0 <= index < count:
        raise InputError(f"{INDEX_VARIABLE} is {index}: with {count} workers it must be 0 to {count - 1}.")
    hosts = [f"{job}-node-0-{number}.{job}:{PORT}" for number in range(count)]
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def _worker_pods(given: Mapping[str, Any]) -> WorkerPods:
    extra = ("accelerator", "accelerator_count", "node_selector", "tolerations")
    asked = {**given["workers"], **{key: given[key] for key in extra}}
    return records.from_dict(WorkerPods, asked, "parameter workers")


def _prepare(folder: Path, inputs: Mapping[str, Path], request: TrainRequest) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in inputs.items():
        replace_folder(folder / name, source)
    request.save(folder)


def _job(asked: WorkerPods, model: str, key: str, folder: Path) -> Any:
    from pergola.k8s.trainjob import NAME_LENGTH, Owner, TrainJob

    namespace = os.environ.get(NAMESPACE_VARIABLE)
    if not namespace:
        raise InputError(
            f"Several workers need a cluster: {NAMESPACE_VARIABLE} does not say which namespace."
        )
    slug = re.sub(r"[^a-z0-9]+", "-", f"train-{model}".lower()).strip("-")
    name = f"{slug[: NAME_LENGTH - 11].rstrip('-')}-{key[:10]}"
    extra = {asked.accelerator: asked.accelerator_count} if int(asked.accelerator_count or 0) else {}
    pod_name, uid = os.environ.get(POD_VARIABLE), os.environ.get(UID_VARIABLE)
    return TrainJob(
        name,
        namespace,
        runtime=asked.runtime,
        image=asked.image,
        command=("python3", "-P", "-m", "pergola.pipelines.kubeflow.workers", str(folder)),
        num_workers=asked.count,
        env={JOB_VARIABLE: name, COUNT_VARIABLE: str(asked.count)},
        requests={"cpu": asked.cpu, "memory": asked.memory, **extra},
        limits={"memory": asked.memory_limit, **extra},
        node_selector=asked.node_selector,
        tolerations=tuple({key: _as_integer(value) for key, value in t.items()} for t in asked.tolerations),
        owner=Owner(pod_name, uid) if pod_name and uid else None,
    )


def _as_integer(value: Any) -> Any:
    """Kubeflow passes integers as floats, which Kubernetes refuses."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _run(job: Any) -> None:
    from pergola.k8s.rollout import Cluster, RolloutError
    from pergola.k8s.trainjob import TrainJobs

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the job is deleted
    try:
        TrainJobs(Cluster.connect()).run(job, on_line=lambda line: log.info("%s: %s", job.name, line))
    except RolloutError as error:
        raise StepError(f"Training by {job.num_workers} workers: {error}") from None


def _log_epoch(epoch: int, figures: Mapping[str, float]) -> None:
    log.info("epoch=%d %s", epoch, json.dumps({k: round(float(v), 4) for k, v in figures.items()}))


def main() -> None:
    """Entry point of a worker's process; the argument is its folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if len(sys.argv) != 2:
            raise InputError("A worker takes one argument: its folder in the workspace.")
        work(Path(sys.argv[1]), os.environ)
    except PergolaError as error:
        sys.stderr.write(f"pergola: {error}\n")
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
