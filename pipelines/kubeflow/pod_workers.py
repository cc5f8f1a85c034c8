"""Training by several workers, as pods run it: a step that makes a TrainJob, and the workers that it starts.

The step puts what workers need into a folder of the workspace, which all of them mount:

    <workspace>/state/<model>/workers-<key>/
      request.json              settings
      shards/  augmentation/    inputs
      training/                 what the workers leave; a try that was cut off goes on from here

Each worker is `python3 -m pergola.pipelines.kubeflow.pod_workers FOLDER`. TensorFlow finds the other workers
by TF_CONFIG, which is made of what Kubernetes tells a pod of itself.
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

from pergola.components import records, steps
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.training import Training
from pergola.components.errors import InputError, PergolaError, StepError
from pergola.pipelines.kubeflow import pod_model
from pergola.pipelines.kubeflow.failures import noted
from pergola.pipelines.kubeflow.pod_workspace import Workspace, made, replace, settings_of

PORT = 2222
JOB_VARIABLE, COUNT_VARIABLE = "PERGOLA_TRAINJOB", "PERGOLA_WORKERS"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"  # set by Kubernetes
NAMESPACE_VARIABLE, POD_VARIABLE, UID_VARIABLE = "PERGOLA_NAMESPACE", "PERGOLA_POD", "PERGOLA_POD_UID"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerPods:
    """What a TrainJob is asked for."""

    count: int = records.setting(2, "workers", low=1, high=1024)
    image: str = records.setting("", "of the workers")
    runtime: str = records.setting("pergola-train", "TrainingRuntime that they are pods of")
    cpu: str = records.setting("2", "processors that a worker asks for")
    memory: str = records.setting("4Gi", "memory that a worker asks for")
    memory_limit: str = records.setting("16Gi", "memory above which a worker is killed")
    accelerator: str = records.setting("nvidia.com/gpu", "resource name of accelerators")
    accelerator_count: str = records.setting("0", "of them for each worker")
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Request(Record):
    """What workers are to train."""

    FILE = "request.json"

    settings: dict[str, Any]
    architecture: dict[str, Any]


@noted
def train_workers(
    shards: str,
    augmentation: str,
    out: str,
    settings: Mapping[str, Any],
    architecture: Mapping[str, Any],
    model: str,
    workspace: str,
    workers: Mapping[str, Any],
) -> Training:
    """Shards -> a network that several workers trained together. A try that takes over goes on."""
    asked = settings_of(WorkerPods, workers, "workers")
    key, request = _request(Path(shards), Path(augmentation), settings, architecture)
    folder = Workspace(Path(workspace)).state(model) / f"workers-{key}"
    _prepare(folder, Path(shards), Path(augmentation), request)
    _run(_job(asked, model, key, folder))
    training = Training.load(folder / "training")
    shutil.copytree(folder / "training", made(out), dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return training


def work(folder: Path, environment: Mapping[str, str]) -> None:
    """One worker, to the end of the training. Worker 0 writes."""
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings

    os.environ["TF_CONFIG"] = tf_config(environment)
    request = Request.load(folder)
    steps.train(
        folder / "shards",
        folder / "augmentation",
        folder / "training",
        settings_of(TrainSettings, request.settings, "train"),
        model=settings_of(ModelSettings, request.architecture, "model"),
        on_epoch=pod_model.log_epoch,
    )


def tf_config(environment: Mapping[str, str]) -> str:
    """What TensorFlow wants to know of a worker and the others, as JSON.

    environment: names of the job and its workers' number by us, the pod's number by Kubernetes.
    Raises InputError for what is missing or no number.
    """
    try:
        job, count = environment[JOB_VARIABLE], int(environment[COUNT_VARIABLE])
        index = int(environment[INDEX_VARIABLE])
    except KeyError as error:
        raise InputError(f"This is no pod of a TrainJob: the variable {error.args[0]} is not set.") from None
    except ValueError as error:
        raise InputError(
            f"{COUNT_VARIABLE} and {INDEX_VARIABLE} want to be whole numbers: {error}."
        ) from None
    if not 0 <= index < count:
        raise InputError(
            f"{INDEX_VARIABLE} is {index}: with {count} workers it wants to be 0 to {count - 1}."
        )
    hosts = [f"{job}-node-0-{number}.{job}:{PORT}" for number in range(count)]
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def _request(
    shards: Path, augmentation: Path, settings: Mapping[str, Any], architecture: Mapping[str, Any]
) -> tuple[str, Request]:
    """The key of a training, and what its workers are told."""
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings

    wanted = settings_of(TrainSettings, settings, "train")
    network = settings_of(ModelSettings, architecture, "model")
    key = pod_model.training_key(shards, augmentation, wanted, network)
    return key, Request(records.to_dict(wanted), records.to_dict(network))


def _prepare(folder: Path, shards: Path, augmentation: Path, request: Request) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("shards", shards), ("augmentation", augmentation)):
        replace(folder / name, source)
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
    pod, uid = os.environ.get(POD_VARIABLE), os.environ.get(UID_VARIABLE)
    return TrainJob(
        name,
        namespace,
        runtime=asked.runtime,
        image=asked.image,
        command=("python3", "-m", "pergola.pipelines.kubeflow.pod_workers", str(folder)),
        num_workers=asked.count,
        env={JOB_VARIABLE: name, COUNT_VARIABLE: str(asked.count)},
        requests={"cpu": asked.cpu, "memory": asked.memory, **extra},
        limits={"memory": asked.memory_limit, **extra},
        node_selector=asked.node_selector,
        tolerations=tuple({key: _whole(value) for key, value in t.items()} for t in asked.tolerations),
        owner=Owner(pod, uid) if pod and uid else None,
    )


def _whole(value: Any) -> Any:
    """Kubeflow hands whole numbers over as floats, which Kubernetes refuses."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _run(job: Any) -> None:
    from pergola.k8s.rollout import Cluster, RolloutError
    from pergola.k8s.trainjob import TrainJobs

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the job is deleted
    try:
        TrainJobs(Cluster.connect()).run(job, on_line=lambda line: log.info("%s: %s", job.name, line))
    except RolloutError as error:
        raise StepError(f"Training by {job.num_workers} workers: {error}") from None


def main() -> None:
    """A worker's process: its folder is the argument."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        if len(sys.argv) != 2:
            raise InputError("A worker wants one argument: its folder in the workspace.")
        work(Path(sys.argv[1]), os.environ)
    except PergolaError as error:
        sys.stderr.write(f"pergola: {error}\n")
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main()
