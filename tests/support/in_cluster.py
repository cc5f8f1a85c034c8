"""A namespace of a test's own on a real cluster, and what is tried in it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import subprocess
from collections.abc import Iterable, Iterator

from pergola.k8s.rollout import Cluster, RolloutError
from tests.support.manifests import Object
from tests.support.required import CLUSTER, is_required, missing

_NOT_OF_A_POD = {"serviceAccountName", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}  # KServe's
_numbers = itertools.count()


def connect() -> Cluster:
    """The cluster that KUBECONFIG names; without one the test is skipped, unless one is required."""
    if not os.environ.get("KUBECONFIG"):
        missing(CLUSTER, "no cluster: KUBECONFIG is not set")
    return Cluster.connect()


@contextlib.contextmanager
def own_namespace(cluster: Cluster, purpose: str) -> Iterator[str]:
    """A new namespace that holds its pods to the level `restricted`; gone afterwards."""
    name = f"pergola-test-{purpose}-{os.getpid()}-{next(_numbers)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}])
    try:
        yield name
    finally:
        subprocess.run(
            ["kubectl", "delete", "namespace", name, "--wait=false"], check=True, capture_output=True
        )


def in_namespace(objects: list[Object], name: str) -> list[Object]:
    """The same objects in a namespace of another name."""
    moved = copy.deepcopy(objects)
    for thing in moved:
        if thing["kind"] == "Namespace":
            thing["metadata"]["name"] = name
        else:
            thing["metadata"]["namespace"] = name
        for subject in thing.get("subjects", []):
            subject["namespace"] = name
    return moved


def missing_kinds(cluster: Cluster, objects: list[Object]) -> set[str]:
    """Kinds whose definitions the cluster lacks. None may, where $PERGOLA_CLUSTER is "required"."""
    unknown = set()
    for thing in objects:
        try:
            cluster.address(thing)
        except RolloutError as error:
            assert "the cluster knows no" in str(error)
            unknown.add(thing["kind"])
    if unknown and is_required(CLUSTER):
        missing(CLUSTER, f"the cluster knows no {', '.join(sorted(unknown))}")
    return unknown


def try_pod(cluster: Cluster, namespace: str, spec: Object, claimed: Iterable[str] = ()) -> None:
    """Let the server check one pod, as a controller would make it.

    claimed: names of volumes that the controller would add. The pod's account does not exist there.
    """
    left = {key: value for key, value in spec.items() if key not in _NOT_OF_A_POD}
    left["volumes"] = [*spec.get("volumes", []), *({"name": name, "emptyDir": {}} for name in claimed)]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "try-"}, "spec": left}
    query = [("dryRun", "All"), ("fieldValidation", "Strict")]
    cluster.call("POST", f"/api/v1/namespaces/{namespace}/pods", pod, query=query)
