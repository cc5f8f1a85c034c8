"""Training by several workers on a real cluster with Kubeflow Trainer (`scripts/cluster start --trainer`).

A pod with the account of the pipeline's steps does what the step `train_workers` does; workers are pods of
the TrainingRuntime in k8s/components/trainer, on the claim that all of them mount.
"""

import json
import os
import re
import subprocess
import time

import pytest

from pergola.components.artifacts.training import Augmentation, Training
from tests.components.training.conftest import write_shards
from tests.support import manifests
from tests.support.container_images import VERSION
from tests.support.in_cluster import connect, in_namespace, missing_kinds, own_namespace

pytestmark = pytest.mark.cluster

IMAGE = f"{os.environ.get('PERGOLA_TEST_REGISTRY', '')}pergola:{VERSION}-cpu"
STEP = """
import json, logging, sys
from types import SimpleNamespace
from pergola.pipelines.kubeflow import workers
logging.basicConfig(level=logging.INFO, format="%(message)s")
asked = json.loads(sys.argv[1])
folders = {"shards": "shards", "augmentation": "augmentation", "training": asked["model"]}
given = {name: SimpleNamespace(path="/workspace/" + folder, metadata={}) for name, folder in folders.items()}
workers.train_workers({
    **given, "dataset": "/workspace/dataset", "model": asked["model"], "workspace": "/workspace",
    "train_settings": {"epochs": asked["epochs"], "patience": asked["epochs"]},
    "model_settings": {"architecture": "mlp"}, "workers": asked["workers"],
    "accelerator": "nvidia.com/gpu", "accelerator_count": "0", "node_selector": {}, "tolerations": [],
})
"""
WORKERS = {"count": 2, "image": IMAGE, "cpu": "200m", "memory": "512Mi", "memory_limit": "2Gi"}


class Step:
    """A pod that runs steps, in a namespace with what they need."""

    def __init__(self, namespace):
        self.namespace = namespace

    def kubectl(self, *words):
        done = subprocess.run(
            ["kubectl", "-n", self.namespace, *words], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(self, model, *, epochs=3, **workers):
        """The step's process, in its pod."""
        asked = json.dumps({"model": model, "epochs": epochs, "workers": {**WORKERS, **workers}})
        words = ["kubectl", "-n", self.namespace, "exec", "step", "--", "python3", "-c", STEP, asked]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait_for_epoch(self, process, but=()):
        """Names of the workers' pods as soon as they have trained an epoch. but: other pods than these."""
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            pods = sorted(w["metadata"]["name"] for w in self.workers() if w["status"]["phase"] == "Running")
            new = [name for name in pods if name not in but]
            if len(new) == WORKERS["count"] and "epoch=" in self.kubectl("logs", new[0]):
                return new
            time.sleep(0.5)

    def workers(self):
        words = ("get", "pods", "-l", "jobset.sigs.k8s.io/jobset-name", "-o", "json")
        return json.loads(self.kubectl(*words))["items"]


def _pod():
    fields = {
        "PERGOLA_NAMESPACE": "metadata.namespace", "PERGOLA_POD": "metadata.name",
        "PERGOLA_POD_UID": "metadata.uid",
    }  # fmt: skip
    env = [{"name": n, "valueFrom": {"fieldRef": {"fieldPath": path}}} for n, path in fields.items()]
    container = {
        "name": "step", "image": IMAGE, "command": ["sleep", "infinity"], "env": env,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "workspace", "mountPath": "/workspace"}],
    }  # fmt: skip
    profile = {"type": "RuntimeDefault"}
    security = {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": profile}
    claim = {"name": "workspace", "persistentVolumeClaim": {"claimName": "pergola-workspace"}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "step"},
        "spec": {"serviceAccountName": "pergola-pipeline", "securityContext": security,
                 "containers": [container], "volumes": [claim]},
    }  # fmt: skip


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    cluster = connect()
    folder = tmp_path_factory.mktemp("step")
    (folder / "overlay").mkdir()
    built = manifests.build(manifests.with_components(folder / "overlay", "dev", ["trainer"]))
    kinds = ("ServiceAccount", "Role", "RoleBinding", "PersistentVolumeClaim", "TrainingRuntime")
    if missing_kinds(cluster, [o for o in built if o["kind"] in kinds]):
        pytest.skip("this cluster knows no TrainingRuntime")
    if "trainer" not in subprocess.check_output(
        ["kubectl", "get", "validatingwebhookconfigurations"], text=True
    ):
        pytest.skip("no Kubeflow Trainer runs here")
    with own_namespace(cluster, "training") as name:
        cluster.apply(in_namespace([o for o in built if o["kind"] in kinds] + [_pod()], name))
        made = Step(name)
        made.kubectl("wait", "--for=condition=Ready", "pod/step", "--timeout=300s")
        write_shards(folder / "shards")
        Augmentation({}).save(folder / "augmentation")
        for part in ("shards", "augmentation"):
            made.kubectl("cp", str(folder / part), f"step:/workspace/{part}")
        yield made


def test_two_workers_train_one_network(step, tmp_path):
    process = step.train("two")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    step.kubectl("cp", "step:/workspace/two", str(tmp_path / "two"))
    training = Training.load(tmp_path / "two")
    assert training.epochs == 3 and len(training.history) == 3
    assert "train-two" in said and "epoch" in said  # worker 0's log is handed on
    deadline = time.monotonic() + 120
    while step.workers() or step.kubectl("get", "trainjobs", "-o", "name"):
        assert time.monotonic() < deadline
        time.sleep(1)


def test_a_lost_worker_costs_a_start_from_the_checkpoint(step, tmp_path):
    process = step.train("lost", epochs=150, node_selector={"kubernetes.io/os": "linux"})
    first = step.wait_for_epoch(process)
    assert step.workers()[0]["spec"]["nodeSelector"] == {"kubernetes.io/os": "linux"}
    step.kubectl("delete", "pod", first[1], "--wait=false")
    assert set(step.wait_for_epoch(process, but=first)).isdisjoint(first)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    step.kubectl("cp", "step:/workspace/lost", str(tmp_path / "lost"))
    assert Training.load(tmp_path / "lost").epochs == 150
    seen = [int(number) for number in re.findall(r"epoch=(\d+)", said)]
    assert seen.count(1) == 1 and seen[-1] == 150
    # What a pod said last goes with it, when its log was not read in time.
    unseen = sorted(set(range(1, 151)) - set(seen))
    assert not unseen or unseen[-1] - unseen[0] < 10


def test_an_image_that_does_not_exist_ends_the_step_with_the_reason(step):
    process = step.train("none", image="registry.invalid/pergola:0-cpu")
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "cannot start node" in said and "ImagePull" in said
    assert step.kubectl("get", "trainjobs", "-o", "name") == ""
