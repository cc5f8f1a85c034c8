"""What a real API server says of the manifests. KUBECONFIG names it; `scripts/test --cluster` runs this.

Little is kept: each set of manifests gets a namespace under a name of its own, most of it is only checked by
the server (schemas, defaults, admission, Pod Security), and the namespace goes again.
"""

import copy
import os
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
import yaml

from pergola.k8s.manifests import name_of, ordered
from pergola.k8s.rollout import RolloutError
from pergola.k8s.trainjob import TrainJob
from tests.pipelines.kubeflow import server as kubeflow_server
from tests.support import manifests
from tests.support.in_cluster import connect, in_namespace, missing_kinds, own_namespace, try_pod

pytestmark = pytest.mark.cluster

ADDED = {  # name: overlay, and components that none of ours has beside it
    "trainer": ("dev", ["trainer"]),
    "volume": ("production", ["volume"]),
    "all": ("production", ["gpu", "tls", "gateway"]),
}


@pytest.fixture(scope="module")
def cluster():
    return connect()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Every overlay, and some with components that no overlay of ours has."""
    found = {name: manifests.build(manifests.ROOT / "k8s" / "overlays" / name) for name in manifests.OVERLAYS}
    for name, (overlay, components) in ADDED.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = manifests.build(manifests.with_components(folder, overlay, components))
    return found


def object_of(built, overlay, name):
    return copy.deepcopy(next(o for o in built[overlay] if name_of(o) == name))


@pytest.mark.parametrize("overlay", [*manifests.OVERLAYS, *ADDED])
def test_the_server_accepts_every_object_and_every_pod(cluster, built, overlay):
    with own_namespace(cluster, overlay) as name:
        objects = in_namespace(built[overlay], name)
        unknown = missing_kinds(cluster, objects)
        known = [o for o in ordered(objects) if o["kind"] not in unknown and o["kind"] != "Namespace"]
        assert cluster.apply(known, dry_run=True) == [name_of(o) for o in known]
        for pod in manifests.pods(objects):
            try_pod(cluster, name, pod.spec, manifests.claimed(pod, objects))
    if unknown:
        pytest.skip(f"this cluster knows no {', '.join(sorted(unknown))}; the rest is accepted")


def server(thing):
    return thing["spec"]["template"]["spec"]["containers"][0]


FAULTS = {  # name: overlay, object, what is changed, what the server says
    "a port that is none": (
        "production", "Deployment/model-server-stable",
        lambda o: server(o)["ports"][0].update(containerPort=850000), "containerPort"),
    "a misspelt key": (
        "production", "Deployment/model-server-stable",
        lambda o: server(o).update(readinesProbe={}), "readinesProbe"),
    "a label that is no text": (
        "production", "Service/model-server",
        lambda o: o["metadata"]["labels"].update(enabled=True), "labels|bool"),
    "a selector that is not its own": (
        "production", "Deployment/model-server-stable",
        lambda o: o["spec"]["selector"]["matchLabels"].update(track="none"), "does not match template"),
    "fewer than the fewest": (
        "production", "HorizontalPodAutoscaler/model-server-stable",
        lambda o: o["spec"].update(maxReplicas=1), "maxReplicas"),
    "a request above its limit": (
        "production", "Deployment/mlflow",
        lambda o: server(o)["resources"]["requests"].update(memory="64Gi"), "memory"),
    "a rule of a port that has no name": (
        "production", "NetworkPolicy/model-server",
        lambda o: o["spec"]["ingress"][0]["ports"][0].update(port="GRPC!"), "port"),
    "a weight below nothing": (
        "gateway", "GRPCRoute/model-server",
        lambda o: o["spec"]["rules"][0]["backendRefs"][0].update(weight=-1), "weight"),
    "a misspelt key of a route": (
        "gateway", "GRPCRoute/model-server",
        lambda o: o["spec"]["rules"][0].update(backendRef=[]), "backendRef"),
    "copies that are no number": (
        "kserve", "InferenceService/model-server",
        lambda o: o["spec"]["predictor"].update(minReplicas="two"), "minReplicas"),
    "a misspelt key of a predictor": (
        "kserve", "InferenceService/model-server",
        lambda o: o["spec"]["predictor"].update(minReplica=2), "minReplica"),
    "nodes that are no number": (
        "trainer", "TrainingRuntime/pergola-train",
        lambda o: o["spec"]["mlPolicy"].update(numNodes="two"), "numNodes"),
    "a misspelt key of a runtime": (
        "trainer", "TrainingRuntime/pergola-train",
        lambda o: o["spec"]["mlPolicy"].update(numNode=2), "numNode"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_server_finds_a_planted_fault(cluster, built, fault):
    overlay, name, plant, said = FAULTS[fault]
    thing = object_of(built, overlay, name)
    if missing_kinds(cluster, [thing]):
        pytest.skip(f"this cluster knows no {thing['kind']}")
    thing["metadata"]["namespace"] = "default"
    cluster.apply([thing], dry_run=True)
    plant(thing)
    with pytest.raises(RolloutError, match=said):
        cluster.apply([thing], dry_run=True)


UNSAFE = {  # what Pod Security has to refuse: of the pod, of its first container
    "root": ({"securityContext": {"runAsNonRoot": False, "runAsUser": 0}}, {}),
    "the node's files": ({"volumes": [{"name": "scratch", "hostPath": {"path": "/"}}]}, {}),
    "the node's network": ({"hostNetwork": True}, {}),
    "more rights": ({}, {"securityContext": {"privileged": True}}),
    "a capability": ({}, {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"], "drop": ["ALL"]}}}),
}


@pytest.mark.parametrize("fault", UNSAFE)
def test_pod_security_refuses_an_unsafe_pod(cluster, built, fault):
    of_pod, of_container = UNSAFE[fault]
    (pod,) = manifests.pods([object_of(built, "production", "Deployment/mlflow")])
    pod.spec["containers"][0].update(of_container)
    with (
        own_namespace(cluster, "unsafe") as name,
        pytest.raises(RolloutError, match=r'^refused: .*violates PodSecurity "restricted'),
    ):
        try_pod(cluster, name, {**pod.spec, **of_pod})


MAY = (  # verb, group, resource, subresource, name
    ("create", "argoproj.io", "workflowtaskresults", "", ""),
    ("patch", "argoproj.io", "workflowtaskresults", "", ""),
    ("get", "", "configmaps", "", "kfp-launcher"),
    ("get", "", "secrets", "", "mlpipeline-minio-artifact"),
    ("create", "trainer.kubeflow.org", "trainjobs", "", ""),
    ("get", "trainer.kubeflow.org", "trainjobs", "", ""),
    ("delete", "trainer.kubeflow.org", "trainjobs", "", ""),
    ("list", "", "pods", "", ""),
    ("get", "", "pods", "log", ""),
)
MAY_NOT = (
    ("get", "", "secrets", "", "store-credentials"),
    ("list", "", "secrets", "", ""),
    ("get", "", "configmaps", "", "model"),
    ("create", "", "pods", "", ""),
    ("create", "", "pods", "exec", ""),
    ("delete", "", "pods", "", ""),
    ("update", "trainer.kubeflow.org", "trainjobs", "", ""),
    ("create", "apps", "deployments", "", ""),
    ("create", "rbac.authorization.k8s.io", "rolebindings", "", ""),
)


def _may(cluster, namespace, verb, group, resource, subresource, name):
    asked = {"namespace": namespace, "verb": verb, "group": group, "resource": resource,
             "subresource": subresource, "name": name}  # fmt: skip
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{namespace}:pergola-pipeline", "resourceAttributes": asked},
    }  # fmt: skip
    where = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return cluster.call("POST", where, review)["status"]["allowed"]


def test_the_steps_may_do_what_they_do_and_nothing_more(cluster, built):
    with own_namespace(cluster, "rights") as name, own_namespace(cluster, "other") as other:
        kinds = ("ServiceAccount", "Role", "RoleBinding")
        cluster.apply([o for o in in_namespace(built["trainer"], name) if o["kind"] in kinds])
        deadline = time.monotonic() + 10  # until the server has taken note of the role
        while not _may(cluster, name, *MAY[0]) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert [asked for asked in MAY if not _may(cluster, name, *asked)] == []
        assert [asked for asked in MAY_NOT if _may(cluster, name, *asked)] == []
        assert [asked for asked in MAY if _may(cluster, other, *asked)] == []


def test_a_routes_weights_are_set(cluster, built):
    route = object_of(built, "gateway", "GRPCRoute/model-server")
    if missing_kinds(cluster, [route]):
        pytest.skip("this cluster knows no GRPCRoute")
    with own_namespace(cluster, "route") as name:
        cluster.apply(in_namespace([route], name))
        cluster.set_share(name, "model-server", 0.125)
        where = f"/apis/gateway.networking.k8s.io/v1/namespaces/{name}/grpcroutes/model-server"
        (rule,) = cluster.call("GET", where)["spec"]["rules"]
        assert {b["name"]: b["weight"] for b in rule["backendRefs"]} == {
            "model-server-stable": 875, "model-server-canary": 125,
        }  # fmt: skip
        with pytest.raises(RolloutError, match="conflict"):
            cluster.apply(in_namespace([route], name))


def test_a_train_job_of_ours_is_accepted(cluster, built):
    place = {"node_selector": {"pool": "gpu"}, "tolerations": ({"key": "gpu", "operator": "Exists"},)}
    with own_namespace(cluster, "job") as name:
        job = TrainJob(
            "leaves-1f3a", name, "pergola-train", "pergola:0.2.0-cpu", ("python3",), 2, env={"A": "1"},
            requests={"cpu": "1"}, limits={"memory": "2Gi"}, **place,
        )  # fmt: skip
        if missing_kinds(cluster, [job.manifest()]):
            pytest.skip("this cluster knows no TrainJob")
        cluster.apply(in_namespace([object_of(built, "trainer", "TrainingRuntime/pergola-train")], name))
        assert cluster.apply([job.manifest()], dry_run=True) == ["TrainJob/leaves-1f3a"]
        wrong = copy.deepcopy(job.manifest())
        wrong["spec"]["trainer"]["numNode"] = 3
        with pytest.raises(RolloutError, match="numNode"):
            cluster.apply([wrong], dry_run=True)


NOWHERE = {  # a pod that Pod Security has nothing against
    "securityContext": {
        "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"},
    },
    "containers": [{
        "name": "none", "image": "none:1",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }],
}  # fmt: skip
THROUGH_THE_CLUSTER = """
import sys
from pathlib import Path
from pergola.pipelines.kubeflow.client import schedule, schedule_file, submit
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection
way = KubeflowConnection(pipelines_namespace=sys.argv[1])
run = submit.submit(way, submit.Request(Path("p.yaml")))
plan = schedule_file.load(Path("s.toml"))
done = [schedule.apply(way, plan)[0].action for _ in range(2)] + [schedule.delete(way, ["nightly"])[0].action]
print([found.id for found in submit.runs(way)] == [run.id], *done)
"""


def _our_address():
    """Address of this machine as the cluster's API server sees it; None where that is no way back."""
    with open(os.environ["KUBECONFIG"], encoding="utf-8") as file:
        config = yaml.safe_load(file)
    at = urlsplit(config["clusters"][0]["cluster"]["server"])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect((at.hostname, at.port or 443))
        address = way.getsockname()[0]
    return None if address.startswith("127.") else (address, config)


def _kubeflow_at(url, name):
    """The Service of Kubeflow Pipelines in a namespace, which leads to `url`, and an account that may ask it.

    The API server leads to pods only: this one runs nowhere, and is said to have this machine's address.
    """
    at = urlsplit(url)
    meta = {"name": "ml-pipeline", "namespace": name}
    to = {"ip": at.hostname, "targetRef": {"kind": "Pod", **meta}}
    may = {"apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get", "create", "delete"]}
    rbac = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta,
         "spec": {"ports": [{"name": "http", "port": 8888}]}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {**NOWHERE, "schedulerName": "nobody"}},
        {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta,
         "subsets": [{"addresses": [to], "ports": [{"name": "http", "port": at.port}]}]},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "ann", "namespace": name}},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": [may]},
        {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": meta,
         "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "ml-pipeline"},
         "subjects": [{"kind": "ServiceAccount", "name": "ann", "namespace": name}]},
    ]  # fmt: skip


def test_kubeflow_is_reached_through_the_clusters_api_with_a_token(cluster, tmp_path):
    found = _our_address()
    if found is None:
        pytest.skip("the cluster's API server cannot reach this machine")
    address, config = found
    kubeflow_server.write_pipeline(tmp_path / "p.yaml")
    schedule = '[[schedule]]\nname = "nightly"\npackage = "p.yaml"\ncron = "0 3 * * *"\n'
    (tmp_path / "s.toml").write_text(schedule)
    with own_namespace(cluster, "kubeflow") as name, kubeflow_server.serve(address) as kubeflow:
        cluster.apply(_kubeflow_at(kubeflow.url, name))
        status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
        where = f"/api/v1/namespaces/{name}/pods/ml-pipeline/status"
        cluster.call("PATCH", where, status, kind="application/merge-patch+json")
        where = f"/api/v1/namespaces/{name}/serviceaccounts/ann/token"
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = cluster.call("POST", where, asked)["status"]["token"]
        users = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
        (tmp_path / "config").write_text(yaml.safe_dump({**config, "users": users}))
        done = subprocess.run(
            [sys.executable, "-c", THROUGH_THE_CLUSTER, name], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "KUBECONFIG": str(tmp_path / "config"), "PYTHONPATH": str(manifests.ROOT)},
        )  # fmt: skip
    assert done.stdout.split() == ["True", "created", "unchanged", "deleted"], done.stderr
    assert kubeflow.changes()[-1][0] == "DELETE" and kubeflow.recurring == {}
