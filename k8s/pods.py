"""The state of a rollout, read from the status of a workload and its pods: progress, and why a pod fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pergola.k8s.manifests import Object, name_of

_HOPELESS = ("ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError")
_CRASHES = 2  # restarts after which a crash counts as permanent


@dataclass(frozen=True)
class RolloutProgress:
    """How far the rollout of a workload is."""

    name: str
    wanted: int
    updated: int
    available: int
    done: bool


def progress_of(workload: Object) -> RolloutProgress:
    """Progress of a Deployment or StatefulSet, as its controller reports it."""
    spec, status = workload["spec"], workload.get("status", {})
    wanted = spec.get("replicas", 1)
    updated = status.get("updatedReplicas", 0)
    available = status.get("availableReplicas", 0)
    seen = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    done = seen and updated == wanted and available >= wanted and status.get("replicas", 0) == updated
    return RolloutProgress(name_of(workload), wanted, updated, available, done)


def trouble(pod: Object, late: bool) -> str:
    """Why a pod does not run, as a sentence; empty while it may still start.

    late: the timeout has passed, so waiting for a node, an image or a probe is a failure too.
    """
    name = pod["metadata"]["name"]
    for status in _container_statuses(pod):
        reason = _waiting(status)
        message = status.get("state", {}).get("waiting", {}).get("message", "")
        if reason in _HOPELESS:
            return f"{name} cannot start {status['name']}: {reason}: {message or status.get('image', '')}."
        if reason == "CrashLoopBackOff" and status.get("restartCount", 0) >= _CRASHES:
            end = status.get("lastState", {}).get("terminated", {})
            how = f"{end.get('reason', 'Error')}, exit status {end.get('exitCode', '?')}"
            return f"{name} crashes in {status['name']} ({how}, {status['restartCount']} restarts)."
    if not late:
        return ""
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name} cannot be scheduled: {condition.get('message', condition.get('reason', ''))}"
    for status in _container_statuses(pod):
        if _waiting(status):
            waiting = status["state"]["waiting"]
            why = f"{waiting['reason']}: {waiting.get('message') or status.get('image', '')}".rstrip(": ")
            return f"{name} does not start {status['name']}: {why}."
        if not status.get("ready") and not status.get("state", {}).get("terminated"):
            return f"{name} is not ready: {status['name']} is running but its probe fails. See its log."
    return ""


def crashed_container(pod: Object) -> str:
    """Name of the first container with the log of a previous run; empty when there is none."""
    for status in _container_statuses(pod):
        if _waiting(status) == "CrashLoopBackOff" or status.get("lastState", {}).get("terminated"):
            return str(status["name"])
    return ""


def _container_statuses(pod: Object) -> list[Any]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _waiting(status: Object) -> str:
    return str(status.get("state", {}).get("waiting", {}).get("reason", ""))
