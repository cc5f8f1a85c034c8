"""Who reaches what: the NetworkPolicies of every overlay, read as a network plugin reads them.

test_cluster_serving.py tries the same on a cluster whose plugin enforces them.
"""

import pytest

from pergola.pipelines.kubeflow.cluster import CLIENT_LABELS, LABELS
from tests.support.manifests import OVERLAYS, ROOT, build, kustomize, pods, with_components
from tests.support.network import OWN, Peer, leaves, of, reaches

if kustomize() is None:
    pytest.skip("no kustomize: scripts/kustomize-tools builds one", allow_module_level=True)

SERVER, MLFLOW = "Deployment/model-server-stable", "Deployment/mlflow"
CLIENT = {"model-client": "true"}
STEP = {**LABELS, "pipelines.kubeflow.org/v2_component": "true"}  # as Kubeflow labels it
REGISTRY_STEP = {**STEP, CLIENT_LABELS["registry"]: "true"}
STORE_STEP = {**STEP, CLIENT_LABELS["store"]: "true"}
EVERY = {"model-client": "true", "mlflow-client": "true", "store-client": "true", **STEP}
KUBE_DNS = Peer({"k8s-app": "kube-dns"}, "kube-system")


@pytest.fixture(scope="module")
def built():
    return {overlay: build(ROOT / "k8s" / "overlays" / overlay) for overlay in OVERLAYS}


WAYS = [  # from labels, from namespace, to, port, whether it is open
    (CLIENT, OWN, SERVER, 8500, True),
    (CLIENT, OWN, SERVER, 8501, True),
    (CLIENT, OWN, SERVER, 8502, False),
    (CLIENT, OWN, MLFLOW, 5000, False),
    (CLIENT, "shop", SERVER, 8500, False),
    ({}, OWN, SERVER, 8500, False),
    ({}, "monitoring", SERVER, 8501, True),
    ({}, "monitoring", SERVER, 8502, True),
    ({}, "monitoring", SERVER, 8500, False),
    (REGISTRY_STEP, "kubeflow", MLFLOW, 5000, True),
    (REGISTRY_STEP, "kubeflow", SERVER, 8500, False),
    (STEP, "kubeflow", MLFLOW, 5000, False),
    (REGISTRY_STEP, "shop", MLFLOW, 5000, False),
    ({}, OWN, MLFLOW, 5000, False),
]
DEV_WAYS = [
    (REGISTRY_STEP, OWN, MLFLOW, 5000, True),
    ({"app.kubernetes.io/name": "mlflow"}, OWN, "StatefulSet/database", 5432, True),
    ({"app.kubernetes.io/name": "mlflow"}, OWN, "StatefulSet/objects", 7070, True),
    ({"app.kubernetes.io/name": "model-server"}, OWN, "StatefulSet/objects", 7070, True),
    ({"app.kubernetes.io/name": "model-server"}, OWN, "StatefulSet/database", 5432, False),
    (STORE_STEP, "kubeflow", "StatefulSet/objects", 7070, True),
    (STEP, "kubeflow", "StatefulSet/objects", 7070, False),
    (STORE_STEP, "kubeflow", "StatefulSet/database", 5432, False),
    ({}, OWN, "StatefulSet/objects", 7070, False),
]


@pytest.mark.parametrize("overlay", ["production", "gpu", "gateway", "dev"])
def test_only_named_clients_get_in(built, overlay):
    ways = WAYS + (DEV_WAYS if overlay == "dev" else [])
    found = [reaches(built[overlay], Peer(labels, space), to, port) for labels, space, to, port, _ in ways]
    assert [way for way, is_open in zip(ways, found, strict=True) if is_open != way[-1]] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_of_no_policy_of_ours_can_do_nothing(built, overlay):
    """An unlabelled pod in our namespace: it asks DNS, and nobody reaches it."""
    stranger = Peer({"app": "stranger"})
    template = {"metadata": {"labels": stranger.labels}, "spec": {"containers": []}}
    job = {"kind": "Job", "metadata": {"name": "stranger"}, "spec": {"template": template}}
    objects = [*built[overlay], job]
    assert leaves(objects, stranger, 53, KUBE_DNS) and not leaves(objects, stranger, 443)
    for space in (OWN, "kubeflow", "monitoring", "gateway"):
        assert not reaches(objects, Peer(EVERY, space), "Job/stranger", 8080)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_pods_find_names_and_a_bucket(built, overlay):
    for pod in pods(built[overlay]):
        us = Peer(pod.labels)
        assert leaves(built[overlay], us, 53, KUBE_DNS), pod.owner
        if us.labels["app.kubernetes.io/name"] in ("mlflow", "model-server"):
            assert leaves(built[overlay], us, 443) and not leaves(built[overlay], us, 80), pod.owner
    if any(pod.owner == MLFLOW for pod in pods(built[overlay])):
        assert leaves(built[overlay], of(built[overlay], MLFLOW)[0], 5432)


def test_a_gateway_reaches_grpc_alone(built):
    gateway = Peer({}, "gateway")
    assert reaches(built["gateway"], gateway, SERVER, 8500)
    assert not reaches(built["gateway"], gateway, SERVER, 8501)
    assert not reaches(built["production"], gateway, SERVER, 8500)


def test_steps_are_reached_by_nobody_and_workers_by_each_other(tmp_path):
    objects = build(with_components(tmp_path, "dev", ["trainer"]))
    worker, ports = of(objects, "TrainingRuntime/pergola-train")
    for source, is_open in ((worker, True), (Peer(EVERY), False), (Peer({}, "monitoring"), False)):
        assert reaches(objects, source, "TrainingRuntime/pergola-train", ports["tensorflow"]) is is_open


def test_a_shop_is_let_in_by_the_patch_of_the_docs(tmp_path):
    """docs/kubernetes.md shows how an overlay names the namespaces of its clients."""
    from tests.k8s.test_manifests import page_block

    up = "../" * len(tmp_path.parts[1:]) + str(ROOT / "k8s").lstrip("/")
    patch = page_block("patches:  # who may reach what")
    head = f"namespace: pergola\nresources: [{up}/overlays/production]\n"
    (tmp_path / "kustomization.yaml").write_text(head + patch)
    objects = build(tmp_path)
    assert reaches(objects, Peer(CLIENT, "shop"), SERVER, 8500)
    assert not reaches(objects, Peer({}, "shop"), SERVER, 8500)
    assert not reaches(objects, Peer(CLIENT, "other"), SERVER, 8500)
    assert reaches(objects, Peer(REGISTRY_STEP, "ann"), MLFLOW, 5000)
    assert not reaches(objects, Peer(REGISTRY_STEP, "other"), MLFLOW, 5000)
