"""Runs a TrainJob of Kubeflow Trainer: creates it, waits for it, passes on the log of its first worker.

    job = TrainJob("leaves-1f3a", "pergola", runtime="pergola-train", image=…, command=(…,), num_workers=4)
    TrainJobs(Cluster.connect()).run(job, on_line=print)

Its pods come from a TrainingRuntime (k8s/components/trainer). Trainer creates a JobSet of the same name with
one replicated job, "node", whose pods reach each other as <name>-node-0-<number>.<name>.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pergola.k8s import pods
from pergola.k8s.manifests import Object
from pergola.k8s.rollout import Cluster, Conflict, Missing, RolloutError

GROUP = "trainer.kubeflow.org"
VERSION = f"{GROUP}/v1alpha1"
CONTAINER = "node"  # Trainer's name for it
NAME_LENGTH = 50  # its pods' host names are up to 13 characters longer, and at most 63
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class Owner:
    """The pod that creates the job: when it is deleted, Kubernetes deletes the job."""

    name: str
    uid: str


@dataclass(frozen=True)
class TrainJob:
    """What to run, on how many workers, with which resources."""

    name: str
    namespace: str
    runtime: str  # a TrainingRuntime of the namespace
    image: str
    command: tuple[str, ...]
    num_workers: int
    env: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    owner: Owner | None = None

    def manifest(self) -> Object:
        """The object for the API server. A node selector or tolerations need Kubeflow Trainer 2.2."""
        labels = {"app.kubernetes.io/part-of": "pergola", "app.kubernetes.io/component": "pipeline"}
        metadata: dict[str, Any] = {"name": self.name, "namespace": self.namespace, "labels": labels}
        if self.owner:
            owner = {"apiVersion": "v1", "kind": "Pod", "name": self.owner.name, "uid": self.owner.uid}
            metadata["ownerReferences"] = [owner]
        trainer = {
            "image": self.image,
            "command": list(self.command),
            "numNodes": self.num_workers,
            "env": [{"name": name, "value": value} for name, value in self.env.items()],
            "resourcesPerNode": {"requests": dict(self.requests), "limits": dict(self.limits)},
        }
        runtime = {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": self.runtime}
        spec: dict[str, Any] = {"runtimeRef": runtime, "trainer": trainer}
        if self.node_selector or self.tolerations:
            spec["runtimePatches"] = [{"manager": "pergola/train", "trainingRuntimeSpec": self._place()}]
        return {"apiVersion": VERSION, "kind": "TrainJob", "metadata": metadata, "spec": spec}

    def _place(self) -> Object:
        pod = {
            "nodeSelector": dict(self.node_selector),
            "tolerations": [dict(toleration) for toleration in self.tolerations],
        }
        job = {"name": CONTAINER, "template": {"spec": {"template": {"spec": pod}}}}
        return {"template": {"spec": {"replicatedJobs": [job]}}}


class TrainJobs:
    """The TrainJobs of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def run(
        self,
        job: TrainJob,
        *,
        on_line: Callable[[str], None] = lambda line: None,
        start_timeout_s: float = 900,
        poll_s: float = 5,
    ) -> None:
        """Return when the job is complete. However this ends, the job is deleted.

        A running job of this name is adopted, a failed one replaced. on_line: receives worker 0's log line by
        line.  start_timeout_s: how long pods may wait to be scheduled.
        Raises RolloutError with the reason when the job fails, cannot start, or is deleted meanwhile.
        """
        try:
            self._create(job)
            log = _Log(self._cluster, job, on_line)
            late_at = time.monotonic() + start_timeout_s
            while not self._is_complete(job, log, late=time.monotonic() >= late_at):
                log.read()
                time.sleep(poll_s)
            log.read()
        finally:
            self._delete(job)

    def _create(self, job: TrainJob) -> None:
        try:
            self._cluster.call("POST", _collection(job), job.manifest())
            return
        except Conflict:
            pass
        except Missing:
            raise RolloutError(
                "the cluster knows no TrainJob: install Kubeflow Trainer, or train with one worker."
            ) from None
        found = self._find(job)
        if found is None or _condition(found, "Failed"):
            self._delete(job)
            self._wait_until_gone(job)
            self._cluster.call("POST", _collection(job), job.manifest())

    def _is_complete(self, job: TrainJob, log: _Log, *, late: bool) -> bool:
        found = self._find(job)
        if found is None:
            raise RolloutError(f"TrainJob/{job.name} was deleted while it was running.")
        if _condition(found, "Complete"):
            return True
        failed = _condition(found, "Failed")
        if failed:
            log.read()
            tail = f" Its last lines: {' / '.join(log.last)}" if log.last else ""
            reason = failed.get("message") or failed.get("reason") or "no reason given"
            raise RolloutError(f"TrainJob/{job.name} failed: {reason}.{tail}")
        for pod in self._pods(job):
            waits = pod.get("status", {}).get("phase") == "Pending"
            text = pods.trouble(pod, late and waits)
            if text:
                raise RolloutError(f"TrainJob/{job.name}: {text}")
        return False

    def _find(self, job: TrainJob) -> Object | None:
        try:
            found: Object = self._cluster.call("GET", f"{_collection(job)}/{job.name}")
        except Missing:
            return None
        return found

    def _pods(self, job: TrainJob) -> list[Object]:
        return self._cluster.items(f"/api/v1/namespaces/{job.namespace}/pods", {JOBSET_LABEL: job.name})

    def _delete(self, job: TrainJob) -> None:
        try:
            query = [("propagationPolicy", "Background")]
            self._cluster.call("DELETE", f"{_collection(job)}/{job.name}", query=query)
        except Missing:
            pass

    def _wait_until_gone(self, job: TrainJob, timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while self._find(job) is not None:
            if time.monotonic() >= deadline:
                raise RolloutError(
                    f"TrainJob/{job.name} of an earlier attempt exists {timeout_s:g} s after it was deleted. "
                    "Look at its finalizers with kubectl."
                )
            time.sleep(0.5)


class _Log:
    """The log of worker 0, each line once, across restarts of its pod."""

    def __init__(self, cluster: Cluster, job: TrainJob, on_line: Callable[[str], None]) -> None:
        self._cluster, self._job, self._on_line = cluster, job, on_line
        self._since = ""  # time of the newest line
        self._seen: set[str] = set()  # lines of that second, with their times
        self.last: list[str] = []

    def read(self) -> None:
        """Pass on new lines; a pod that has not started has none."""
        for pod in self._pods():
            for line in self._lines(pod["metadata"]["name"]):
                stamp, _, text = line.partition(" ")
                if line in self._seen or stamp[:19] < self._since[:19]:
                    continue
                if stamp[:19] != self._since[:19]:
                    self._seen.clear()
                self._since = stamp
                self._seen.add(line)
                self.last = [*self.last[-4:], text]
                self._on_line(text)

    def _pods(self) -> list[Object]:
        selector = {JOBSET_LABEL: self._job.name, INDEX_LABEL: "0"}
        found = self._cluster.items(f"/api/v1/namespaces/{self._job.namespace}/pods", selector)
        return sorted(found, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))

    def _lines(self, pod: str) -> list[str]:
        where = f"/api/v1/namespaces/{self._job.namespace}/pods/{pod}/log"
        query = [("container", CONTAINER), ("timestamps", "true")]
        query += [("sinceTime", self._since[:19] + "Z")] if self._since else []
        try:
            text = self._cluster.call("GET", where, query=query, plain=True)
        except RolloutError:
            return []
        return [line for line in str(text).splitlines() if line]


def _collection(job: TrainJob) -> str:
    return f"/apis/{VERSION}/namespaces/{job.namespace}/trainjobs"


def _condition(found: Object, kind: str) -> Object | None:
    """The condition of this type if it is true, otherwise None."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)
