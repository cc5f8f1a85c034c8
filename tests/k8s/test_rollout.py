"""Applying objects and waiting for rollouts, against a stateful server that imitates the Kubernetes API."""

import pytest

from pergola.k8s.manifests import ManifestError, build, name_of, ordered
from pergola.k8s.rollout import Cluster, RolloutError
from tests.support import manifests
from tests.support.cluster import TOKEN, FakeCluster

CRASHED = {
    "name": "server", "ready": False, "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 255, "reason": "Error"}},
}  # fmt: skip
NO_IMAGE = {
    "name": "sync", "ready": False, "restartCount": 0,
    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image pergola/sync:9"}},
}  # fmt: skip


@pytest.fixture
def fake():
    with FakeCluster() as cluster:
        yield cluster


def connect(fake, token=TOKEN):
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration()
    configuration.host = fake.url
    configuration.api_key = {"authorization": f"Bearer {token}"}
    configuration.retries = False
    return Cluster(ApiClient(configuration))


@pytest.fixture
def cluster(fake):
    return connect(fake)


def deployment(name="model-server", **spec):
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "pergola"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "server", "image": "x:1"}]},
            },
            **spec,
        },
    }


NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "pergola"}}


def roll_out(cluster, objects, **arguments):
    cluster.apply(objects)
    seen = []
    cluster.wait(objects, on_progress=seen.append, poll_s=0.01, **{"timeout_s": 5, **arguments})
    return seen


@pytest.mark.skipif(manifests.kustomize() is None, reason="no kustomize: scripts/kustomize-tools builds one")
def test_apply_sends_a_whole_overlay_and_waits_for_it(fake, cluster):
    objects = ordered(manifests.build(manifests.ROOT / "k8s" / "overlays" / "dev"))
    names = [name_of(thing) for thing in objects]
    assert cluster.apply(objects) == names
    assert len(fake.objects) == len(objects)
    cluster.wait(objects, timeout_s=10, poll_s=0.01)
    assert names[0] == "Namespace/pergola-dev"


def test_wait_reports_progress(cluster):
    seen = roll_out(cluster, [NAMESPACE, deployment(replicas=3)])
    assert [(p.wanted, p.available, p.done) for p in seen] == [(3, 0, False), (3, 3, True)]


def test_apply_with_a_dry_run_keeps_nothing(fake, cluster):
    cluster.apply([NAMESPACE])
    cluster.apply([deployment()], dry_run=True)
    assert list(fake.objects) == ["/api/v1/namespaces/pergola"]


def test_a_dry_run_before_the_namespace_is_there_says_what_to_do(cluster):
    with pytest.raises(RolloutError, match=r"namespaces \"pergola\" not found\. .*create namespace pergola"):
        cluster.apply([NAMESPACE, deployment()], dry_run=True)


def test_apply_says_what_the_server_finds_wrong(cluster):
    cluster.apply([NAMESPACE])
    with pytest.raises(RolloutError, match=r"Deployment/model-server: Deployment is invalid.*replica"):
        cluster.apply([deployment(replica=3)])


def test_apply_of_an_unknown_kind_says_so(cluster):
    service = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": {"name": "x"}, "spec": {},
    }  # fmt: skip
    with pytest.raises(RolloutError, match=r"InferenceService/x: the cluster knows no InferenceService"):
        cluster.apply([service])


def test_apply_leaves_the_fields_of_others_unless_forced(fake, cluster):
    cluster.apply([NAMESPACE, deployment()])
    path = "/apis/apps/v1/namespaces/pergola/deployments/model-server"
    fake.objects[path]["metadata"]["owner"] = "argocd"
    with pytest.raises(RolloutError, match=r'conflict with "argocd".*--force'):
        cluster.apply([deployment()])
    cluster.apply([deployment()], force=True)


def test_wait_fails_at_once_when_an_image_does_not_exist(fake, cluster):
    fake.fate = lambda name: [{"initContainerStatuses": [NO_IMAGE]}]
    with pytest.raises(
        RolloutError, match=r"cannot start sync: ImagePullBackOff: Back-off pulling image pergola"
    ):
        roll_out(cluster, [NAMESPACE, deployment()], timeout_s=60)


def test_wait_fails_at_once_when_a_container_crashes_and_shows_its_log(fake, cluster):
    fake.fate = lambda name: [{"containerStatuses": [CRASHED]}]
    fake.logs = "Failed to start server. Error: Unknown: 1 servable(s) did not become available\n"
    with pytest.raises(
        RolloutError, match=r"crashes in server \(Error, exit status 255, 3 restarts\).*1 servable"
    ):
        roll_out(cluster, [NAMESPACE, deployment()], timeout_s=60)


def test_wait_tolerates_a_single_crash(fake, cluster):
    fake.fate = lambda name: [{"containerStatuses": [{**CRASHED, "restartCount": 1}]}]
    with pytest.raises(RolloutError, match=r"does not start server: CrashLoopBackOff"):
        roll_out(cluster, [NAMESPACE, deployment()], timeout_s=0.1)


def test_wait_says_at_the_timeout_that_an_image_is_still_pulled(fake, cluster):
    waiting = {
        "name": "server",
        "ready": False,
        "image": "x:1",
        "state": {"waiting": {"reason": "ContainerCreating"}},
    }
    fake.fate = lambda name: [{"containerStatuses": [waiting]}]
    with pytest.raises(RolloutError, match=r"does not start server: ContainerCreating: x:1\."):
        roll_out(cluster, [NAMESPACE, deployment()], timeout_s=0.1)


def test_wait_says_at_the_timeout_that_no_node_had_room(fake, cluster):
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/3 nodes: insufficient nvidia.com/gpu",
    }
    waiting = {"name": "server", "ready": False, "state": {}}
    fake.fate = lambda name: [{"conditions": [condition], "containerStatuses": [waiting]}]
    with pytest.raises(RolloutError, match=r"cannot be scheduled: 0/3 nodes"):
        roll_out(cluster, [NAMESPACE, deployment()], timeout_s=0.1)


def test_wait_says_when_a_probe_keeps_failing(fake, cluster):
    fake.fate = lambda name: [
        {"containerStatuses": [{"name": "server", "ready": False, "state": {"running": {}}}]}
    ]
    with pytest.raises(RolloutError, match=r"is not ready: server is running but its probe fails"):
        roll_out(cluster, [NAMESPACE, deployment()], timeout_s=0.1)


def test_refusals_are_explained(fake, cluster):
    with pytest.raises(RolloutError, match=r"does not accept these credentials"):
        connect(fake, "expired").apply([NAMESPACE])
    fake.forbidden = {"/namespaces"}
    with pytest.raises(RolloutError, match=r'not allowed: User "dev" cannot patch'):
        cluster.apply([NAMESPACE])


def test_a_cluster_that_does_not_answer_is_named(fake):
    cluster = connect(fake)
    fake.__exit__()
    with pytest.raises(
        RolloutError, match=r"no cluster answers at http://127.0.0.1:\d+: Failed to establish"
    ):
        cluster.apply([NAMESPACE])


def test_connect_without_a_kubeconfig_says_what_to_do(tmp_path):
    with pytest.raises(RolloutError, match="No cluster is configured"):
        Cluster.connect(str(tmp_path / "absent"))


@pytest.fixture
def nothing_set(monkeypatch, tmp_path):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_connect_where_nothing_is_set_says_what_to_do(nothing_set):
    with pytest.raises(RolloutError, match=r"No cluster is configured: .*Set KUBECONFIG or --context"):
        Cluster.connect()


def test_connect_in_a_pod_looks_for_its_account(nothing_set, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(RolloutError, match=r"(?i)service token file"):
        Cluster.connect()


def test_set_share_writes_both_weights(fake, cluster):
    backends = [{"name": f"model-server-{t}", "port": 8500, "weight": 0} for t in ("stable", "canary")]
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GRPCRoute",
        "metadata": {"name": "model-server", "namespace": "pergola"},
        "spec": {"rules": [{"backendRefs": backends}]},
    }  # fmt: skip
    cluster.apply([NAMESPACE, route])
    cluster.set_share("pergola", "model-server", 0.125)
    (rule,) = fake.objects["/apis/gateway.networking.k8s.io/v1/namespaces/pergola/grpcroutes/model-server"][
        "spec"
    ]["rules"]
    assert [b["weight"] for b in rule["backendRefs"]] == [875, 125]


def test_build_refuses_a_folder_without_a_kustomization(tmp_path):
    with pytest.raises(ManifestError, match=r"has no kustomization\.yaml"):
        build(tmp_path)


@pytest.mark.skipif(manifests.kustomize() is None, reason="no kustomize: scripts/kustomize-tools builds one")
def test_build_says_why_kustomize_cannot(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{manifests.ROOT / '.tools'}:/usr/bin:/bin")
    (tmp_path / "kustomization.yaml").write_text("resources: [absent.yaml]\n")
    with pytest.raises(ManifestError, match=r"absent\.yaml"):
        build(tmp_path)
