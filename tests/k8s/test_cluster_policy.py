"""Pod Security of the level `restricted`, on a real API server, for the pods that Kubeflow makes of tasks.

test_cluster.py does the same for the pods of every overlay. Kubeflow's own server is not there: what it adds
to a task's container is taken from the SDK's description of `set_security_context`.
"""

import pytest
import yaml

from pergola.k8s.rollout import RolloutError
from pergola.pipelines.kubeflow import compiled
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from tests.support.in_cluster import connect, own_namespace, try_pod

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::FutureWarning")]

KUBEFLOW_ADDS = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
CASES = {  # name: pipeline, settings of the pods
    "grouped": ("retraining", {"tune_trials": 3}),
    "one step a task": ("training", {"group": "none"}),
    "many pods": ("training", {"partitions": 2, "workers": 2, "train_image": "pergola:7-gpu"}),
    "assigned user": ("training", {"run_as_user": 0, "run_as_group": 0}),
}


def pods_of(path, pipeline, **settings):
    """The pods of a pipeline's tasks, by task, as the driver makes them of the platform's settings."""
    cluster = ClusterSettings(image="pergola:7", pull_secret="registry", **settings)
    compiled.compile_to(path, pipeline, cluster=cluster)
    spec, platform = yaml.safe_load_all(path.read_text())
    found = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, asked in found.items():
        container = spec["deploymentSpec"]["executors"][name]["container"]
        yield name, pod_of(container, asked)


def pod_of(container, asked):
    """kfp writes whole numbers as text."""
    user = {key: value if isinstance(value, bool) else int(value)
            for key, value in asked.get("securityContext", {}).items()}  # fmt: skip
    claims = {mount["constant"]: mount["mountPath"] for mount in asked["pvcMount"]}
    folders = {mount["volumeName"]: mount for mount in asked.get("emptyDirMounts", [])}
    places = claims | {name: mount["mountPath"] for name, mount in folders.items()}
    main = {
        "name": "main",
        "image": container["image"],
        "volumeMounts": [{"name": name, "mountPath": place} for name, place in places.items()],
        "securityContext": {**KUBEFLOW_ADDS, **user},
    }
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
    volumes += [
        {"name": name, "emptyDir": {key: mount[key] for key in ("medium", "sizeLimit")}}
        for name, mount in folders.items()
    ]
    return {"containers": [main], "volumes": volumes, "restartPolicy": "Never"}


@pytest.fixture(scope="module")
def cluster():
    return connect()


@pytest.mark.parametrize("case", CASES)
def test_a_restricted_namespace_takes_the_pod_of_every_task(cluster, tmp_path, case):
    pipeline, settings = CASES[case]
    with own_namespace(cluster, "tasks") as namespace:
        names = []
        for name, pod in pods_of(tmp_path / "p.yaml", pipeline, **settings):
            try_pod(cluster, namespace, pod)
            names.append(name)
    assert len(names) >= 9


def test_without_the_security_context_it_refuses_them(cluster, tmp_path):
    with own_namespace(cluster, "tasks") as namespace:
        for _, pod in pods_of(tmp_path / "p.yaml", "training", security_context=False):
            with pytest.raises(RolloutError, match=r"violates PodSecurity .*runAsNonRoot != true"):
                try_pod(cluster, namespace, pod)
