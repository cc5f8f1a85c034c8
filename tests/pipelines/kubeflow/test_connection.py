import os
import socket
import subprocess
import sys
import time

import pytest
import yaml

from pergola.components.errors import InputError, StepError
from pergola.pipelines.kubeflow.client import connection as way
from pergola.pipelines.kubeflow.client import submit
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection


def test_connect_without_a_host_says_how_to_name_one(kubeflow):
    with pytest.raises(InputError, match=r"--host.*KF_PIPELINES_ENDPOINT.*kubeconfig"):
        submit.runs(KubeflowConnection())


@pytest.mark.parametrize("host", ["localhost:8080", "ftp://x", "http://", "https:// x"])
def test_connect_refuses_what_is_no_address(kubeflow, host):
    with pytest.raises(InputError, match="is not an address"):
        submit.runs(KubeflowConnection(host=host))


def test_connect_takes_the_host_from_the_environment(kubeflow, monkeypatch):
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url + "/")
    assert submit.runs(KubeflowConnection()) == []


def test_connect_says_at_once_that_nobody_is_there(kubeflow, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(
        InputError, match=f"No answer from http://127.0.0.1:{port}: Failed to .*refused.*--host"
    ):
        submit.runs(KubeflowConnection(host=f"http://127.0.0.1:{port}"))
    assert caplog.text == ""
    assert time.monotonic() - begin < 10


def test_connect_says_at_once_that_the_token_is_expired(kubeflow, tmp_path):
    kubeflow.token = "fresh"
    begin = time.monotonic()
    for connection in (
        KubeflowConnection(host=kubeflow.url),
        KubeflowConnection(host=kubeflow.url, token="stale"),
        KubeflowConnection(host=kubeflow.url, token="stale", namespace="ann"),
    ):
        with pytest.raises(InputError, match=r"does not accept the token .401.*--token-file"):
            submit.runs(connection)
    assert time.monotonic() - begin < 10
    (tmp_path / "token").write_text("fresh\n")
    assert submit.runs(KubeflowConnection(host=kubeflow.url, token_file=tmp_path / "token")) == []
    with pytest.raises(InputError, match=r"Token file .*nowhere cannot be read"):
        submit.runs(KubeflowConnection(host=kubeflow.url, token_file=tmp_path / "nowhere"))


def test_connect_takes_the_token_from_the_environment(kubeflow, monkeypatch):
    kubeflow.token = "fresh"
    monkeypatch.setenv("PERGOLA_KFP_TOKEN", "fresh")
    assert submit.runs(KubeflowConnection(host=kubeflow.url)) == []


def test_connect_names_missing_rights(kubeflow):
    kubeflow.forbidden = {"GET"}
    with pytest.raises(InputError, match=r"You are not allowed .*403.*User 'ann' is not authorized"):
        submit.runs(KubeflowConnection(host=kubeflow.url))


def test_connect_knows_a_log_in_page(kubeflow):
    kubeflow.login_page = True
    with pytest.raises(InputError, match=r"not as Kubeflow Pipelines .a log-in page"):
        submit.runs(KubeflowConnection(host=kubeflow.url))


def test_connect_knows_a_server_that_is_no_kubeflow(kubeflow):
    kubeflow.behind_cluster = True
    with pytest.raises(
        InputError, match=r"not as Kubeflow Pipelines: 404 page not found \(404\)\. Check --host"
    ):
        submit.runs(KubeflowConnection(host=kubeflow.url))


def test_connect_wants_a_namespace_where_there_are_many_users(kubeflow):
    kubeflow.multi_user = True
    with pytest.raises(InputError, match="--namespace"):
        submit.runs(KubeflowConnection(host=kubeflow.url))
    assert submit.runs(KubeflowConnection(host=kubeflow.url, namespace="ann")) == []


def test_connect_tells_a_broken_server_from_a_wrong_request(kubeflow):
    kubeflow.failures = [500]
    with pytest.raises(StepError, match=r"failed to list runs .500.: upstream connect error"):
        submit.runs(KubeflowConnection(host=kubeflow.url))


def write_kubeconfig(path, server, token):
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )


def runs_in_a_process_of_its_own(kubeconfig):
    """kubernetes reads $KUBECONFIG when it is imported."""
    code = (
        "from pergola.pipelines.kubeflow.client import submit, connection; "
        "print(submit.runs(connection.KubeflowConnection()))"
    )
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_connect_goes_through_the_kubeconfigs_cluster(kubeflow, tmp_path):
    kubeflow.token, kubeflow.behind_cluster = "mine", True
    write_kubeconfig(tmp_path / "config", kubeflow.url, "mine")
    result = runs_in_a_process_of_its_own(tmp_path / "config")
    assert result.stdout == "[]\n", result.stderr
    kubeflow.token = "other"
    result = runs_in_a_process_of_its_own(tmp_path / "config")
    assert "Kubeflow at the cluster of the kubeconfig does not accept the token (401)" in result.stderr


def test_connect_tells_a_broken_kubeconfig(kubeflow, monkeypatch, tmp_path):
    (tmp_path / "config").write_text("clusters: [")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(InputError, match=r"kubeconfig"):
        submit.runs(KubeflowConnection())


def test_connect_refuses_a_missing_ca_file(kubeflow, tmp_path):
    with pytest.raises(InputError, match="CA file"):
        way.connect(KubeflowConnection(host=kubeflow.url, ca_file=tmp_path / "ca.pem"))
