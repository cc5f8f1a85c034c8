"""The pipeline in containers on real photographs: to a published version, a store, a server, an answer.

kfp.local starts one container per task, with a read-only root, no capabilities and no network: what a task
needs must come from its artifacts, the workspace and the photographs. Scan and shards are made in parts.
The artifacts are compared with those of `pergola run` on the same machine. PERGOLA_LEAVES=all takes all
photographs and the default settings.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from pergola.components import settings
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Confirmation, Delivery
from pergola.components.workspace import Workspace
from pergola.pipelines.kubeflow import compiled
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import SilentDisplay
from pergola.serving.client import Client
from tests.pipelines.kubeflow.local_runs import GROUPS, IF_ACCEPTED, Ran, check_equal
from tests.support.container_images import (
    ENGINE,
    command,
    docker_api,
    environment,
    image,
    remove,
    run_and_read,
)
from tests.support.s3_server import free_port

LEAVES = Path(__file__).parents[4] / "shared" / "data" / "leaves"
ALL = os.environ.get("PERGOLA_LEAVES") == "all"
CLASSES = ("acer_rubrum", "ilex_opaca", "ptelea_trifoliata")
QUICK = (
    () if ALL else ("train.epochs=10", "smoke_test.rounds=1", "gate.min_accuracy=0.7", "gate.min_recall=0.5")
)
OVERRIDES = (*QUICK, "release.name=leaves")
PARTITIONS = 3
ID = os.getpid()

pytestmark = [
    pytest.mark.containers,
    pytest.mark.filterwarnings("ignore"),  # the warnings are kfp's own
    pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the leaf photographs in ../shared/data/leaves"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of this test; its containers may write there, whoever they are."""
    folder = tmp_path_factory.mktemp("containers")
    folder.chmod(0o777)
    for name in ("store", "served", "work"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def dataset(root):
    names = sorted(path.name for path in LEAVES.iterdir() if path.is_dir()) if ALL else CLASSES
    for name in names:
        shutil.copytree(LEAVES / name, root / "leaves" / name)
    return root / "leaves"


@pytest.fixture(scope="module")
def ran(root, dataset):
    """The pipeline "training", a container a step."""
    run_in_containers(root, root / "run", dataset="/dataset", model="leaves", store="/store", release=True)
    return Ran(root / "run")


def run_in_containers(root, out, **parameters):
    from docker.types import Mount
    from kfp import local as kfp_local
    from kfp.local import docker_task_handler

    name = f"localhost/{image('cpu')}"
    mounts = [Mount("/dataset", str(root / "leaves"), type="bind", read_only=True),
              Mount("/workspace", str(root / "work"), type="bind"),
              Mount("/store", str(root / "store"), type="bind")]  # fmt: skip
    with docker_api() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", address)
        if ENGINE == "podman":
            patch.setattr(docker_task_handler, "run_docker_container", run_and_read)
        runner = kfp_local.DockerRunner(
            mounts=mounts, network_mode="none", read_only=True, tmpfs={"/tmp": "mode=1777"},
            cap_drop=["ALL"], security_opt=["no-new-privileges"], user=f"{os.getuid()}:{os.getgid()}",
        )  # fmt: skip
        kfp_local.init(runner=runner, pipeline_root=str(out), raise_on_error=True)
        cluster = ClusterSettings(image=name, partitions=PARTITIONS)
        compiled.build("training", settings.load(None, OVERRIDES), cluster)(
            workspace="/workspace", **parameters
        )


@pytest.fixture(scope="module")
def here(dataset, tmp_path_factory):
    """The same photographs by the local front."""
    workspace = Workspace(tmp_path_factory.mktemp("here") / "work")
    result = run.run(dataset, settings.load(None, OVERRIDES), workspace, show=SilentDisplay())
    return workspace, result


def test_the_pipeline_ships_a_version_from_containers(ran, root):
    whole = GROUPS | IF_ACCEPTED | {"merge_scan_parts", "merge_shards_parts"}
    assert whole <= ran.tasks
    parts = [f"{name}-part" for name in ("scan", "shards") for _ in range(PARTITIONS)]
    assert len(ran.tasks) == len(whole) + len(parts), ran.tasks
    assert ran.value("evaluate") == "accepted"
    delivery = Delivery.load(ran.output("delivery"))
    assert delivery.message == "Version 1 of leaves is in /store and stable."
    confirmation = Confirmation.load(ran.output("confirmation"))
    assert (confirmation.model, confirmation.version) == ("leaves", 1)
    scores = Evaluation.load(ran.output("evaluation"))
    assert scores.accuracy >= (0.85 if ALL else 0.7)


def test_containers_make_what_one_process_makes(ran, here):
    workspace, result = here
    assert result.decision == ran.value("evaluate") and result.version == 1
    check_equal(ran, workspace)


def test_a_step_that_fails_in_its_container_fails_the_run(root, dataset, capfd):
    with pytest.raises(RuntimeError, match="check"):
        run_in_containers(root, root / "failed", dataset="/dataset", model="my leaves")
    assert "'my leaves' cannot be a model's name" in capfd.readouterr().out
    assert Ran(root / "failed").tasks == {"finish"}  # the failed one left nothing, and none came after it


def test_a_server_answers_from_the_store_that_the_pipeline_filled(ran, root, dataset):
    rest, grpc = free_port(), free_port()
    store = ((root / "store", "/store", "ro"), (root / "served", "/models", "rw"))
    served = ((root / "served", "/models", "ro"),)
    sync, server = f"pergola-sync-{ID}", f"pergola-server-{ID}"
    started = [
        start(sync, "sync", store, "pergola", "sync", "/store", "/models", "--interval", "0.2", "--port", "0",
              "--server", f"http://127.0.0.1:{rest}")
    ]  # fmt: skip
    try:
        wait_for(lambda: (root / "served" / "models.config").exists(), started)
        started.append(
            start(server, "cpu", served, "pergola-model-server", "--model_config_file=/models/models.config",
                  "--model_config_file_poll_wait_seconds=1", f"--port={grpc}", f"--rest_api_port={rest}",
                  "--allow_version_labels_for_unavailable_models=true")
        )  # fmt: skip
        wait_for(lambda: available(rest), started)
        picture = next(iter(sorted((dataset / CLASSES[0]).glob("*.jpg"))))
        with Client(f"127.0.0.1:{grpc}", model="leaves") as client:
            answer = client.classify_images([picture])
        assert answer.version == 1
    finally:
        for name, process in zip((sync, server), started, strict=False):
            remove(name)
            process.wait(60)


def start(name, target, mounts, *words):
    return subprocess.Popen(command(target, *words, mounts=mounts, name=name), env=environment())


def wait_for(condition, processes, timeout_s=180):
    ends = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends and all(process.poll() is None for process in processes)
        time.sleep(0.3)


def available(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/leaves", timeout=5) as reply:
            states = json.load(reply)["model_version_status"]
    except OSError:
        return False
    return [state["state"] for state in states] == ["AVAILABLE"]
