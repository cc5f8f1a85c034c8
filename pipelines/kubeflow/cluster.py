"""Pods of a pipeline's tasks: image, volumes, resources, secrets, retries, timeouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Self

from pergola.components import records
from pergola.pipelines.kubeflow import failures

if TYPE_CHECKING:
    from pergola.pipelines.definition import Step

ENV_KEYS = ("MLFLOW_TRACKING_URI", "PERGOLA_STORE")
BUCKET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
SECRET_KEYS = {  # what a task needs -> keys of the Secret
    "registry": (
        "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", *BUCKET_KEYS,
    ),
    "store": BUCKET_KEYS,
    "webhook": ("PERGOLA_WEBHOOK_URL",),
}  # fmt: skip
CLIENT_LABELS = {"registry": "mlflow-client", "store": "store-client"}  # what NetworkPolicies admit
LABELS = {"app.kubernetes.io/part-of": "pergola", "app.kubernetes.io/component": "pipeline"}

RUN_LABEL_KEY = "pipeline/runid"  # set on every pod by Kubeflow
RUN_LABEL = f"metadata.labels['{RUN_LABEL_KEY}']"


@dataclass(frozen=True)
class ClusterSettings:
    """Settings of a pipeline's pods, which are compiled into it."""

    image: str = records.setting("", "of all tasks; empty: pergola:<version>-cpu")
    train_image: str = records.setting("", "of tasks that train, such as a GPU image; empty: as the others")
    pull_secret: str = records.setting("", "Secret for pulling images")
    workspace_claim: str = records.setting("pergola-workspace", "PersistentVolumeClaim that outlives runs")
    workspace: str = records.setting("/workspace", "where it is mounted")
    config_map: str = records.setting("pipeline", "ConfigMap with MLFLOW_TRACKING_URI and PERGOLA_STORE")
    secret: str = records.setting("pergola-pipeline", "Secret with keys, passwords and the webhook, if any")
    security_context: bool = records.setting(
        True, "pods never run as root; false: say nothing of users, for Kubeflow Pipelines before 2.16"
    )
    run_as_user: int = records.setting(
        10001, "user of the pods; 0: the one that the cluster assigns, as OpenShift does, never root", low=0
    )
    run_as_group: int = records.setting(10001, "their group; 0: the one that the cluster assigns", low=0)
    cpu: str = records.setting("1", "CPU request of a task, such as 2 or 500m")
    memory: str = records.setting("2Gi", "memory request of a task")
    memory_limit: str = records.setting("4Gi", "memory limit of a task")
    train_cpu: str = records.setting("2", "CPU request of training")
    train_memory: str = records.setting("4Gi", "memory request of training")
    train_memory_limit: str = records.setting("16Gi", "memory limit of training")
    shm: str = records.setting("2Gi", "size of /dev/shm for training, in memory")
    partitions: int = records.setting(
        1,
        "pods that scan the images and write shards in parallel, each one part of the data set",
        low=1,
        high=64,
    )
    workers: int = records.setting(
        1,
        "pods that train together, as a TrainJob of Kubeflow Trainer; 1: the task itself trains",
        low=1,
        high=64,
    )
    runtime: str = records.setting("pergola-train", "TrainingRuntime of the workers")
    tune_trials: int = records.setting(0, "trials of a search for settings before training; 0: none", low=0)
    tune_minutes: float = records.setting(0.0, "minutes of training in that search; 0: no limit", low=0.0)
    group: str = records.setting(
        "auto", "steps in one task; auto: neighbours whose pods need the same; none: one step per task",
        choices=("auto", "none"),
    )  # fmt: skip
    retries: int = records.setting(3, "retries of a task, where a retry can help", low=0, high=20)
    timeout_s: int = records.setting(3600, "seconds after which a task is stopped", low=60)
    train_timeout_s: int = records.setting(24 * 3600, "seconds after which training is stopped", low=60)

    def image_of(self, on_accelerator: bool) -> str:
        """The image of a task."""
        image = self.train_image if on_accelerator and self.train_image else self.image
        return image or f"pergola:{metadata.version('pergola-ml')}-cpu"

    def worker_pods(self) -> dict[str, Any]:
        """Pods of a TrainJob, see pipelines/kubeflow/workers.py."""
        return {
            "count": self.workers,
            "image": self.image_of(on_accelerator=True),
            "runtime": self.runtime,
            "cpu": self.train_cpu,
            "memory": self.train_memory,
            "memory_limit": self.train_memory_limit,
        }


@dataclass(frozen=True)
class PodNeeds:
    """What a task's pod needs for the steps in it."""

    secrets: tuple[str, ...] = ()
    decodes: bool = False
    accelerator: bool = False
    retry: bool = True
    long: bool = False

    def __post_init__(self) -> None:
        if self.secrets and self.decodes:
            raise ValueError(
                f"A pod that decodes images may hold no secret, but this one needs {self.secrets}: make two "
                "steps of it."
            )

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Self:
        """The needs of all of them."""
        return cls(
            secrets=tuple(dict.fromkeys(secret for step in steps for secret in step.secrets)),
            decodes=any(step.decodes for step in steps),
            accelerator=any(step.accelerator for step in steps),
            retry=any(step.retry for step in steps),
            long=any(step.resumes for step in steps),
        )


def configured(task: Any, name: str, cluster: ClusterSettings, needs: PodNeeds, *, cache: bool = True) -> Any:
    """The task with the settings of its pod.

    cache: Kubeflow may reuse its outputs, because it has no effects besides them.
    """
    from kfp import kubernetes

    training = needs.accelerator
    task.set_container_image(cluster.image_of(training)).set_display_name(name).set_caching_options(cache)
    task.set_cpu_request(cluster.train_cpu if training else cluster.cpu)
    task.set_memory_request(cluster.train_memory if training else cluster.memory)
    task.set_memory_limit(cluster.train_memory_limit if training else cluster.memory_limit)
    if needs.retry and cluster.retries:
        task.set_retry(
            cluster.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration="600s"
        )
    kubernetes.set_timeout(task, cluster.train_timeout_s if needs.long else cluster.timeout_s)
    kubernetes.mount_pvc(task, pvc_name=cluster.workspace_claim, mount_path=cluster.workspace)
    _environment(task, cluster, needs)
    if cluster.security_context:  # what else the level "restricted" asks for, Kubeflow adds
        user, group = cluster.run_as_user or None, cluster.run_as_group or None
        kubernetes.set_security_context(task, user, group, run_as_non_root=True)
    clients = {CLIENT_LABELS[need]: "true" for need in needs.secrets if need in CLIENT_LABELS}
    for key, value in {**LABELS, **clients}.items():
        kubernetes.add_pod_label(task, key, value)
    if cluster.pull_secret:
        kubernetes.set_image_pull_secrets(task, [cluster.pull_secret])
    if training:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=cluster.shm)
    return task


def on_accelerator(task: Any, kind: Any, count: Any, node_selector: Any, tolerations: Any) -> Any:
    """The task on nodes with accelerators. All may be pipeline parameters; a count of "0" asks for none.

    kind: the resource's name, such as "nvidia.com/gpu".
    """
    from kfp import kubernetes

    task.set_accelerator_type(kind).set_accelerator_limit(count)
    kubernetes.add_node_selector_json(task, node_selector)
    kubernetes.add_toleration_json(task, tolerations)
    return task


def with_pod_identity(task: Any) -> Any:
    """The task with its pod's name and namespace in the environment, so that it can own other pods."""
    from kfp import kubernetes

    from pergola.pipelines.kubeflow import workers

    fields = {
        workers.NAMESPACE_VARIABLE: "metadata.namespace",
        workers.POD_VARIABLE: "metadata.name",
        workers.UID_VARIABLE: "metadata.uid",
    }
    for variable, path in fields.items():
        kubernetes.use_field_path_as_env(task, variable, path)
    return task


def _environment(task: Any, cluster: ClusterSettings, needs: PodNeeds) -> None:
    from kfp import kubernetes

    task.set_env_variable("MLFLOW_DISABLE_TELEMETRY", "true")
    task.set_env_variable("TF_CPP_MIN_LOG_LEVEL", "2")
    task.set_env_variable("PYTHONSAFEPATH", "1")
    task.set_env_variable(failures.WORKSPACE_VARIABLE, cluster.workspace)
    kubernetes.use_field_path_as_env(task, failures.RUN_VARIABLE, RUN_LABEL)
    if cluster.config_map:
        keys = {key: key for key in ENV_KEYS}
        kubernetes.use_config_map_as_env(task, cluster.config_map, keys, optional=True)
    if cluster.secret and needs.secrets:
        keys = {key: key for need in needs.secrets for key in SECRET_KEYS[need]}
        kubernetes.use_secret_as_env(task, cluster.secret, keys, optional=True)
