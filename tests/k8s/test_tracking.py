"""MLflow as k8s/base/tracking runs it: in its image, on a real PostgreSQL, artifacts on a real S3 server."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.support import manifests
from tests.support.container_images import command, environment, missing, remove
from tests.support.postgres import binaries, postgres
from tests.support.s3_server import free_port, program, s3_server

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def deployment():
    """The objects of base/tracking: what is run is what is applied."""
    if manifests.kustomize() is None:
        missing("no kustomize: scripts/kustomize-tools builds one")
    objects = manifests.build(manifests.ROOT / "k8s" / "base" / "tracking")
    return {o["kind"]: o for o in objects if o["kind"] in ("Deployment", "ConfigMap")}


@pytest.fixture(scope="module")
def mlflow(deployment, tmp_path_factory):
    if binaries() is None:
        missing("no PostgreSQL: apt-get install postgresql")
    if program() is None:
        missing("no S3 server: scripts/kustomize-tools builds one")
    container = deployment["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    port = free_port()
    words = [w.replace("--port=5000", f"--port={port}") for w in container["command"]]
    name = f"pergola-mlflow-{os.getpid()}"
    folder = tmp_path_factory.mktemp("tracking")
    with postgres() as address, s3_server(folder / "s3") as s3:
        variables = {
            **deployment["ConfigMap"]["data"], **s3.environment, "HOME": "/tmp",
            "MLFLOW_BACKEND_STORE_URI": address, "MLFLOW_S3_ENDPOINT_URL": s3.environment["AWS_ENDPOINT_URL"],
        }  # fmt: skip
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(
                command("cpu", *words, name=name, variables=variables),
                stdout=log, stderr=log, env=environment(),
            )  # fmt: skip
        try:
            wait(f"http://127.0.0.1:{port}/health", process, folder / "log")
            yield f"http://127.0.0.1:{port}", s3
        finally:
            remove(name)
            process.wait(60)


def wait(url, process, log):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(log.read_text())


def ask(address, path, body=None, host="mlflow:5000", method=None):
    request = urllib.request.Request(
        address + path, body, {"Host": host, "Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read()


def test_mlflow_keeps_runs_in_postgres_and_artifacts_in_the_bucket(mlflow):
    address, s3 = mlflow
    body = json.dumps({"name": "leaves"}).encode()
    experiment = json.loads(ask(address, "/api/2.0/mlflow/experiments/create", body))["experiment_id"]
    body = json.dumps({"experiment_id": experiment}).encode()
    run = json.loads(ask(address, "/api/2.0/mlflow/runs/create", body))["run"]["info"]
    where = run["artifact_uri"].removeprefix("mlflow-artifacts:")
    ask(address, f"/api/2.0/mlflow-artifacts/artifacts{where}/report.txt", b"all is well", method="PUT")
    stored = list((s3.buckets / "models" / "mlflow").rglob("report.txt"))
    assert [path.read_bytes() for path in stored] == [b"all is well"]


def test_mlflow_refuses_a_host_that_is_not_its_own(mlflow):
    address, _ = mlflow
    assert ask(address, "/health", host="elsewhere.example") == b"OK"
    ask(address, "/api/2.0/mlflow/experiments/search?max_results=1", host="mlflow.pergola:5000")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(address, "/api/2.0/mlflow/experiments/search?max_results=1", host="evil.example")
