"""Kubeflow Trainer behind the API server of tests/support/cluster.py: TrainJobs, their pods and their logs.

What becomes of a TrainJob is a story: at each look at it, the next chapter holds. A job is checked as Trainer
2.2's schema and webhook do: known fields, a name that a pod can have, a runtime that exists.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.cluster import FakeCluster, status

FIELDS = {
    "spec": {"runtimeRef", "trainer", "runtimePatches"},
    "trainer": {"image", "command", "args", "env", "numNodes", "resourcesPerNode"},
    "runtimeRef": {"apiGroup", "kind", "name"},
}
COMPLETE = {"type": "Complete", "status": "True", "reason": "JobsCompleted"}
FAILED = {"type": "Failed", "status": "True", "reason": "JobsFailed", "message": "jobset failed"}


@dataclass
class Chapter:
    """What is seen at one look. Lines are (time, text) of worker 0's whole log."""

    conditions: list[dict[str, Any]] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    pods: list[dict[str, Any]] = field(default_factory=lambda: [{"phase": "Running"}])
    gone: bool = False  # somebody deletes the job


class FakeTrainer(FakeCluster):
    """A cluster with Kubeflow Trainer and one TrainingRuntime."""

    def __init__(self, story: list[Chapter]) -> None:
        super().__init__()
        self.story = story
        self.installed = True
        self.runtimes = {"pergola-train"}
        self.made: list[dict[str, Any]] = []
        self.jobs: dict[str, dict[str, Any]] = {}
        self.chapter = Chapter()
        self.on_create: Callable[[dict[str, Any]], None] = lambda job: None  # what its workers do

    def answer(self, method: str, target: str, kind: str, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if any(word in parts.path for word in self.forbidden):
            return super().answer(method, target, kind, body)
        jobs = re.fullmatch(
            r"(/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/[^/]+/trainjobs)(/[^/]+)?", parts.path
        )
        if jobs:
            self.requests.append((method, parts.path))
            if not self.installed:
                return 404, status(404, "the server could not find the requested resource")
            return self._job(method, parts.path, body)
        if parts.path.endswith("/log"):
            return 200, self._log(query)
        if parts.path.endswith("/pods"):
            return 200, {"items": self._job_pods(query["labelSelector"])}
        return super().answer(method, target, kind, body)

    def _job(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "POST":
            return self._create(path, json.loads(body))
        if path not in self.jobs:
            return 404, status(404, f'trainjobs "{path.rsplit("/", 1)[1]}" not found')
        if method == "DELETE":
            return 200, self.jobs.pop(path)
        if self.story:
            self.chapter = self.story.pop(0)
        if self.chapter.gone:
            del self.jobs[path]
            return 404, status(404, "gone")
        return 200, {**self.jobs[path], "status": {"conditions": self.chapter.conditions}}

    def _create(self, path: str, job: dict[str, Any]) -> tuple[int, Any]:
        name, spec = job["metadata"]["name"], job["spec"]
        for part, content in (
            ("spec", spec),
            ("trainer", spec["trainer"]),
            ("runtimeRef", spec["runtimeRef"]),
        ):
            unknown = set(content) - FIELDS[part]
            if unknown:
                return 400, status(400, f"strict decoding error: unknown field {part}.{unknown.pop()}")
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(f"{name}-node-0-1000") > 63:
            return 422, status(422, f"metadata.name {name} must match RFC 1035")
        for patch in spec.get("runtimePatches", []):
            if "/" not in patch["manager"]:
                return 403, status(403, 'admission webhook denied: must be a domain-prefixed path ("a.io/b")')
        if spec["runtimeRef"]["name"] not in self.runtimes:
            return 403, status(403, "admission webhook denied the request: TrainingRuntime not found")
        if f"{path}/{name}" in self.jobs:
            return 409, status(409, f'trainjobs "{name}" already exists')
        self.jobs[f"{path}/{name}"] = job
        self.made.append(job)
        self.on_create(job)
        return 201, job

    def _job_pods(self, selector: str) -> list[dict[str, Any]]:
        wanted = dict(part.split("=", 1) for part in selector.split(","))
        found = []
        for path in self.jobs:
            name = path.rsplit("/", 1)[1]
            for index, state in enumerate(self.chapter.pods):
                labels = {"jobset.sigs.k8s.io/jobset-name": name,
                          "batch.kubernetes.io/job-completion-index": str(index)}  # fmt: skip
                if wanted.items() <= labels.items():
                    metadata = {"name": f"{name}-node-0-{index}", "labels": labels}
                    found.append({"metadata": metadata, "status": state})
        return found

    def _log(self, query: dict[str, str]) -> str:
        assert query["container"] == "node" and query["timestamps"] == "true"
        since = query.get("sinceTime", "")[:19]
        return "".join(f"{stamp} {text}\n" for stamp, text in self.chapter.log if stamp[:19] >= since)
