import sys
from types import SimpleNamespace

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


@pytest.fixture(autouse=True, scope="session")
def names_of_callers_only():
    """kfp asks for the whole stack with every setting of a task, and needs the name of its caller only.

    Under pytest, among thousands of modules, finding the source of each frame took 40 s of a test.
    """
    from kfp.dsl import pipeline_task

    def stack():
        frame = sys._getframe(1)
        return [(None, None, None, one.f_code.co_name) for one in (frame, frame.f_back)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline_task, "inspect", SimpleNamespace(stack=stack))
        yield
