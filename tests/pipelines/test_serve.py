from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pergola.components.errors import InputError
from pergola.components.store.publish import publish
from pergola.components.workspace import Workspace
from pergola.pipelines.commands.serve import Ports, models_config, serve
from tests.support import models
from tests.support.command import pergola, serving


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "work")
    workspace.create()
    return workspace


@pytest.mark.slow
def test_serve_picks_up_models_that_come_later(workspace, tmp_path):
    with serving(workspace.root) as place:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{place['rest']}/v1/models/later")
        error.value.close()
        assert error.value.code == 404
        publish(models.half_plus_two(tmp_path / "model"), workspace.models, "later", 3)
        assert _predict_when_ready(place["rest"], "later") == [2.5]
    assert not (workspace.root / "serve.json").exists()


def test_serve_refuses_a_port_in_use(workspace):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = pergola("serve", "--workspace", workspace.root, "--port", port)
    assert done.returncode == 2
    assert f"Port {port} cannot be used: Address already in use" in done.stderr


def test_serve_refuses_an_unknown_model(workspace):
    (workspace.models / "leaves").mkdir()
    with pytest.raises(InputError, match=r"There is no model 'leavs' in .* Did you mean 'leaves'\?"):
        serve(workspace, Ports(0, 0), model="leavs", report=print)


def test_serve_stock_server_must_be_installed(workspace):
    if shutil.which("tensorflow_model_server"):
        pytest.skip("the stock server is here")
    with pytest.raises(InputError, match="--stock-server needs tensorflow_model_server on the PATH"):
        serve(workspace, Ports(0, 0), stock_server=True, report=print)


@pytest.mark.slow
def test_serve_stock_server_runs_the_program_of_that_name(workspace, tmp_path, monkeypatch):
    """With flags that the stock server has: ours stands in where there is none."""
    if not shutil.which("tensorflow_model_server"):
        (tmp_path / "bin").mkdir()
        ours = Path(sys.executable).parent / "pergola-model-server"
        (tmp_path / "bin" / "tensorflow_model_server").symlink_to(ours)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    publish(models.half_plus_two(tmp_path / "model"), workspace.models, "half", 3)
    with serving(workspace.root, "--stock-server") as place:
        assert _predict_when_ready(place["rest"], "half") == [2.5]
    assert "unknown argument" not in (workspace.root / "serve.log").read_text()


def test_models_config_is_read_by_the_server(tmp_path):
    from pergola.serving.server.config.model_config import read_models

    (tmp_path / "models.config").write_text(models_config(["a", "b"], tmp_path))
    found = read_models(tmp_path / "models.config")
    assert [(model.name, model.base_path) for model in found] == [
        ("a", tmp_path / "a"),
        ("b", tmp_path / "b"),
    ]


def test_models_config_contains_which_requests_are_logged(tmp_path):
    from pergola.serving.server.config.model_config import read_models

    text = models_config(["a"], tmp_path, log=lambda name: f"/logs/{name}/log", share=0.25)
    (tmp_path / "models.config").write_text(text)
    (model,) = read_models(tmp_path / "models.config")
    assert (model.request_log.filename_prefix, model.request_log.sampling_rate) == ("/logs/a/log", 0.25)


def _predict_when_ready(rest: str, model: str) -> list[float]:
    import time

    request = urllib.request.Request(
        f"{rest}/v1/models/{model}:predict", json.dumps({"instances": [1.0]}).encode()
    )
    for _ in range(100):
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                found: list[float] = json.load(reply)["predictions"]
                return found
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.2)
    raise AssertionError("the model never came")
