from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pergola.components.errors import InputError
from pergola.components.release.champions import Champions, write_models_config
from pergola.components.store import release_record
from pergola.components.store.publish import publish
from pergola.components.workspace import Workspace
from pergola.pipelines.release.resolve import resolve_version
from pergola.pipelines.serve.exposure import Exposure
from pergola.pipelines.serve.session import Ports, logging_config, serve
from pergola.serving.client import Client, ServedModel, Unsupported
from tests.support import models
from tests.support.command import COMMAND, pergola, pergola_json, serving
from tests.support.servers import fetch, until
from tests.support.versions import saved_model


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


@pytest.mark.parametrize("name", ["leaves", None])
def test_a_model_that_the_gate_rejected_is_said_to_be_rejected(workspace, name):
    run = workspace.runs / "20260101-000000-00000000" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text(
        json.dumps({"result": {"model": "leaves", "outcome": "rejected", "report": "a/report.html"}})
    )
    with pytest.raises(InputError, match=r"rejected the model of the last run; .* why: a/report\.html\."):
        resolve_version(workspace, name)
    with pytest.raises(InputError, match=r"There is no model 'other' in \S+ There are none yet\."):
        resolve_version(workspace, "other")


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


def test_models_config_has_the_live_version_and_which_requests_are_logged(workspace, tmp_path):
    """Not the highest version: after a rollback that is another one."""
    from pergola.serving.server.config.model_config import read_models
    from pergola.serving.server.config.versions import choose

    for number in (1, 2):
        publish(saved_model(tmp_path / str(number), str(number)), workspace.models, "leaves", number)
    Champions(workspace).promote("leaves", 1)
    lines = logging_config("/logs/leaves/log", share=0.25)
    assert write_models_config(workspace, lambda name: lines) == ("leaves",)
    (model,) = read_models(workspace.models_config)
    assert (model.name, model.base_path) == ("leaves", workspace.models / "leaves")
    assert choose([1, 2], model.policy) == {1}
    assert (model.request_log.filename_prefix, model.request_log.sampling_rate) == ("/logs/leaves/log", 0.25)
    Champions(workspace).change("leaves", lambda record: release_record.withdraw(record, 1))
    assert read_models(workspace.models_config) == []


@pytest.mark.slow
def test_serve_is_for_this_machine_and_offers_predictions_alone(workspace, tmp_path):
    publish(models.classifier(tmp_path / "model"), workspace.models, "leaves", 3)
    with serving(workspace.root) as place:
        port = place["grpc"].rpartition(":")[2]
        assert place["grpc"] == f"127.0.0.1:{port}"
        found = {*_listens_at(int(port)), *_listens_at(int(place["rest"].rpartition(":")[2]))}
        assert found and all(address.endswith("0100007F") for address in found)  # 127.0.0.1
        with Client(place["grpc"], model="leaves") as client:
            client.wait_until_available()
            with pytest.raises(Unsupported):
                client.reload([ServedModel("leaves", "/etc")])
        assert fetch(f"{place['rest']}/monitoring/prometheus/metrics").status == 404
    assert (workspace.root / "serve.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_serve_asks_for_a_token_on_both_ports(workspace, tmp_path):
    publish(models.classifier(tmp_path / "model"), workspace.models, "leaves", 3)
    token, image = tmp_path / "token", tmp_path / "a.png"
    token.write_text("secret\n")
    image.write_bytes(models.image_bytes(250))
    flags = ("--token-file", str(token), "--metrics", "--log-requests", "1")
    with serving(workspace.root, *flags) as place:
        url = f"{place['rest']}/v1/models/leaves"
        assert [fetch(url).status, fetch(url, headers={"Authorization": "Bearer other"}).status] == [401, 401]
        assert fetch(url, headers={"Authorization": "Bearer secret"}).status == 200
        assert fetch(f"{place['rest']}/monitoring/prometheus/metrics").status == 401
        assert fetch(f"{place['rest']}/healthz").status == 200
        with Client(place["grpc"], model="leaves", token="secret") as client:
            client.wait_until_available()
            assert client.classify_images([image]).labels == ("bright",)
        predict = ("predict", "--workspace", workspace.root, image)
        refused = pergola(*predict)
        assert refused.returncode == 2 and "--token-file" in refused.stderr
        (found,) = pergola_json(*predict, "--token-file", token)
        assert found["label"] == "bright"
    logged = list(workspace.requests.glob("leaves/*.tfrecord"))
    assert logged and all(path.stat().st_mode & 0o777 == 0o600 for path in logged)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_however_serve_ends(tmp_path, number):
    """In a folder whose name is more than ASCII; and the next `serve` is not misled by what was left."""
    workspace = Workspace(tmp_path / "bl\u00e4tter \U0001f343")
    workspace.create()
    publish(models.half_plus_two(tmp_path / "model"), workspace.models, "half", 3)
    arguments = ["serve", "--workspace", str(workspace.root), "--port", "0", "--rest-port", "0"]
    command = ["env", "--default-signal=HUP", *COMMAND, *arguments]  # which nohup has its children ignore
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    until(lambda: workspace.server(), 60)
    assert _predict_when_ready(workspace.server()["rest"], "half") == [2.5]
    process.send_signal(number)
    assert process.wait(60) in (0, -signal.SIGKILL)
    assert workspace.server() == {}
    until(lambda: not _processes_with(str(workspace.root)), 30)


def test_serve_refuses_an_unknown_flag_address_and_token_file(workspace, tmp_path):
    done = pergola("serve", "--workspace", workspace.root, "--enable_batching")
    assert done.returncode == 2 and "No such option" in done.stderr
    for exposure, text in (
        (Exposure(host="everywhere"), "--host everywhere is not an IP address"),
        (Exposure(token_file=tmp_path / "no"), "Cannot read the token file"),
    ):
        with pytest.raises(InputError, match=text):
            serve(workspace, Ports(0, 0), report=print, exposure=exposure)


def test_exposure_names_addresses_and_risks():
    found = Exposure(host="::").checked(False)
    assert (found.address(8500), found.local_address(8500)) == ("[::]:8500", "[::1]:8500")
    assert "there is no token" in found.warnings()[0]
    assert Exposure().checked(False).warnings() == []
    assert Exposure().checked(True).host == "0.0.0.0"
    with pytest.raises(InputError, match="The stock server listens on every network interface"):
        Exposure(host="127.0.0.1").checked(True)


def _listens_at(port: int) -> set[str]:
    """Addresses on which something listens, as the kernel writes them."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    return {row[1].split(":")[0] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


def _processes_with(text: str) -> list[str]:
    """Command lines of processes that name `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().decode(errors="replace"))
    return [line for line in found if text in line]


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
