"""Serving on a real cluster: released, asked, replaced under load, a pod lost, withdrawn, rolled back.

`scripts/test --cluster` runs this on the cluster that KUBECONFIG names, in a namespace that goes again. The
cluster needs storage for small claims and the images of the overlay `dev`; $PERGOLA_TEST_REGISTRY goes before
the names of ours, such as registry.example.com/. All is asked from a pod of the cluster, as clients are.
"""

import json
import os
import subprocess
import time

import pytest

from pergola.components.store.model_store import open_store
from pergola.k8s.manifests import ordered
from tests.support import manifests
from tests.support.container_images import VERSION
from tests.support.in_cluster import connect, in_namespace
from tests.support.models import half_plus_two
from tests.support.required import CLUSTER, missing

pytestmark = pytest.mark.cluster

NAMESPACE = f"pergola-test-serving-{os.getpid()}"
STORE = "s3://models/pergola"
IMAGE = f"{os.environ.get('PERGOLA_TEST_REGISTRY', '')}pergola:{VERSION}"
LOAD = """
import collections, json, sys, time
from pergola.serving.client import Client
answers, failures = collections.Counter(), []
end = time.monotonic() + float(sys.argv[1])
with Client("dns:///model-server-headless:8500", model="leaves") as client:
    while time.monotonic() < end:
        try:
            answers[client.predict({"x": [2.0]}).version] += 1
        except Exception as error:
            failures.append(repr(error))
        time.sleep(float(sys.argv[2]))
print(json.dumps([answers, failures]))
"""
ONCE = """
import json, urllib.request
body = json.dumps({"instances": [2.0]}).encode()
with urllib.request.urlopen("http://model-server:8501/v1/models/leaves:predict", body, 30) as reply:
    print(json.load(reply)["predictions"][0])
"""


def kubectl(*words, **options):
    done = subprocess.run(["kubectl", "-n", NAMESPACE, *words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def desk(*words):
    """What a command says in the pod `desk`."""
    return kubectl("exec", "desk", "--", *words)


def release(*words):
    desk("pergola", "release", *words, "--model", "leaves", "--store", STORE)


class Load:
    """Requests for some seconds, from a pod; then versions that answered, and failures.

    pause_s: between two requests.
    """

    def __init__(self, seconds, pause_s=0.01):
        asked = [LOAD, str(seconds), str(pause_s)]
        words = ["kubectl", "-n", NAMESPACE, "exec", "desk", "--", "python3", "-c", *asked]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(5)

    def end(self):
        said, wrong = self._process.communicate(timeout=600)
        assert self._process.returncode == 0, wrong
        answers, failures = json.loads(said)
        return {int(version): count for version, count in answers.items()}, failures


def wait_for_answer(wanted, timeout_s):
    """Seconds until the Service answers so."""
    start = time.monotonic()
    while float(desk("python3", "-c", ONCE)) != wanted:
        assert time.monotonic() - start < timeout_s
        time.sleep(1)
    return time.monotonic() - start


def _pod(name, secret, labels):
    locked = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": name, "image": f"{IMAGE}-cpu", "command": ["sleep", "infinity"],
        "securityContext": locked,
        "envFrom": [{"secretRef": {"name": secret}}],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"},
                      "limits": {"cpu": "2", "memory": "2Gi"}},
    }  # fmt: skip
    security = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"automountServiceAccountToken": False, "securityContext": security,
                 "containers": [container]},
    }  # fmt: skip


def _our_images(objects):
    """Our images by the names under which this cluster has them."""
    for pod in manifests.pods(objects):
        for container in pod.containers:
            if container["image"].startswith("pergola:"):
                container["image"] = os.environ.get("PERGOLA_TEST_REGISTRY", "") + container["image"]
    return objects


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The overlay `dev` with three versions in its store, the first one stable; gone in the end."""
    cluster = connect()
    published = tmp_path_factory.mktemp("published")
    for version in (1, 2, 3):
        model = half_plus_two(tmp_path_factory.mktemp("model"), version, add=float(version))
        open_store(published).put(model, "leaves", version)
    built = manifests.build(manifests.ROOT / "k8s" / "overlays" / "dev")
    objects = ordered(_our_images(in_namespace(built, NAMESPACE)))
    names = [o["metadata"]["name"] for o in objects if o["kind"] == "Secret"]
    try:
        cluster.apply(objects)
        secret = next(name for name in names if name.startswith("store-credentials"))
        labels = {"desk": ("model-client", "store-client"), "registrar": ("mlflow-client",), "stranger": ()}
        cluster.apply([_pod(name, secret, dict.fromkeys(given, "true")) for name, given in labels.items()])
        kubectl("wait", "--for=condition=Ready", *(f"pod/{name}" for name in labels), "--timeout=600s")
        kubectl("rollout", "status", "statefulset/objects", "--timeout=600s")
        kubectl("cp", str(published), "desk:/tmp/published")
        for version in ("1", "2", "3"):
            desk(
                "pergola", "push", version, "--from", "/tmp/published", "--model", "leaves", "--store", STORE
            )
        release("stable", "1")
        cluster.wait(objects, timeout_s=900)
        yield
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_the_service_answers(site):
    assert float(desk("python3", "-c", ONCE)) == 2.0


def reaches(pod, address):
    """Whether a pod gets through to host:port."""
    host, port = address.rsplit(":", 1)
    code = f"import socket; socket.create_connection(({host!r}, {port}), 5)"
    words = ["kubectl", "-n", NAMESPACE, "exec", pod, "--", "python3", "-c", code]
    return subprocess.run(words, capture_output=True, timeout=60).returncode == 0


WAYS = {  # from a pod to an address: is it open?
    ("desk", "model-server:8500"): True,
    ("desk", "model-server:8501"): True,
    ("desk", "model-server-headless:8502"): False,  # for Prometheus alone
    ("desk", "mlflow:5000"): False,
    ("desk", "objects:7070"): True,
    ("desk", "database:5432"): False,
    ("registrar", "mlflow:5000"): True,
    ("registrar", "model-server:8500"): False,
    ("stranger", "model-server:8500"): False,
    ("stranger", "model-server:8501"): False,
    ("stranger", "mlflow:5000"): False,
    ("stranger", "objects:7070"): False,
}


def test_policies_let_clients_in_and_nobody_else(site):
    deadline = time.monotonic() + 60  # a network plugin needs a moment for new pods
    found = {}
    while found != WAYS and time.monotonic() < deadline:
        found = {way: reaches(*way) for way in WAYS}
    if all(found.values()):
        missing(CLUSTER, "no network plugin enforces NetworkPolicies here")
    assert found == WAYS


def test_a_release_under_load_fails_no_request(site):
    load = Load(60)
    release("stable", "2")
    answers, failures = load.end()
    assert failures == [] and set(answers) == {1, 2}


def test_a_pod_that_dies_under_load_fails_no_request(site):
    load = Load(60)
    pods = kubectl(
        "get", "pods", "-l", "app.kubernetes.io/name=model-server,track=stable", "-o", "name"
    ).split()
    kubectl("delete", pods[0], "--wait=false")
    answers, failures = load.end()
    assert failures == [] and set(answers) == {2}
    kubectl("rollout", "status", "deployment/model-server-stable", "--timeout=600s")


def test_a_canary_comes_and_is_withdrawn_under_load(site):
    load = Load(90)
    release("canary", "3", "--share", "10%")
    time.sleep(45)
    release("withdraw")
    answers, failures = load.end()
    assert failures == [] and set(answers) == {2, 3}
    wait_for_answer(3.0, 60)


def test_a_rollback_takes_effect_within_half_a_minute(site):
    desk("pergola", "rollback", "--model", "leaves", "--store", STORE)
    assert wait_for_answer(2.0, 60) <= 30


def test_the_autoscaler_adds_a_pod_under_load(site):
    try:
        kubectl("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes")
    except AssertionError as error:
        missing(CLUSTER, f"no metrics server here: {error}")
    replicas = ("get", "deployment/model-server-stable", "-o", "jsonpath={.spec.replicas}")
    loads = [Load(100, pause_s=0) for _ in range(2)]
    deadline = time.monotonic() + 100
    while kubectl(*replicas) == "1" and time.monotonic() < deadline:
        time.sleep(3)
    failures = [failure for load in loads for failure in load.end()[1]]
    told = kubectl("get", "hpa/model-server-stable", "-o", "jsonpath={.status.conditions}")
    assert kubectl(*replicas) == "2", told
    assert failures == []
