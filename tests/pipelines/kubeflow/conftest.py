import pytest

from tests.pipelines.kubeflow import server as kubeflow_server


@pytest.fixture
def kubeflow(monkeypatch, tmp_path):
    """A Kubeflow Pipelines server; no credentials or kubeconfig of the machine reach the test."""
    for name in (
        "KF_PIPELINES_ENDPOINT",
        "KUBERNETES_SERVICE_HOST",
        "PERGOLA_KFP_TOKEN",
        "PERGOLA_KFP_COOKIE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with kubeflow_server.serve() as state:
        yield state
