"""What a real API server says of the manifests. KUBECONFIG names it; `scripts/test --cluster` runs this.

Nothing is kept: each overlay's namespace is made under a name of its own, the rest is only checked by
the server (admission, defaults, Pod Security), and the namespace goes again.
"""

import copy
import os
import subprocess

import pytest

from k8s.manifests import name_of, ordered
from k8s.rollout import Cluster, RolloutError
from tests.support import manifests

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster():
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG is not set")
    return Cluster.connect()


def in_namespace(objects, name):
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


@pytest.mark.parametrize("overlay", manifests.OVERLAYS)
def test_the_server_accepts_every_object(cluster, overlay):
    name = f"pergola-test-{overlay}-{os.getpid()}"
    built = ordered(manifests.build(manifests.ROOT / "k8s" / "overlays" / overlay))
    objects = in_namespace(built, name)
    cluster.apply([o for o in objects if o["kind"] == "Namespace"])
    unknown, accepted = [], []
    try:
        for thing in objects:
            try:
                accepted += cluster.apply([thing], dry_run=True)
            except RolloutError as error:
                if "the cluster knows no" not in str(error):
                    raise
                unknown.append(name_of(thing))
    finally:
        subprocess.run(["kubectl", "delete", "namespace", name, "--wait=false"], check=True)
    assert set(unknown) <= {"GRPCRoute/model-server", "InferenceService/model-server"}
    assert len(accepted) + len(unknown) == len(objects)


def test_the_server_finds_a_planted_fault(cluster):
    objects = manifests.build(manifests.ROOT / "k8s" / "overlays" / "production")
    thing = copy.deepcopy(next(o for o in objects if name_of(o) == "Deployment/model-server-stable"))
    thing["metadata"]["namespace"] = "default"
    thing["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"] = 850000
    with pytest.raises(RolloutError, match="containerPort"):
        cluster.apply([thing], dry_run=True)
