"""The server as a process: signals, exit statuses, what it says."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pergola.serving.tools.child_server import free_port
from tests.serving.contract.started.conftest import DidNotStart
from tests.support.servers import ServerProcess, until


def test_a_broken_config_file_ends_the_start_with_one_sentence(run, tmp_path):
    file = tmp_path / "models.config"
    file.write_text("model_config_list { config {")
    done = run(f"--model_config_file={file}")
    assert done.returncode == 255 and "Traceback" not in done.stderr
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in done.stderr
    assert str(file) in done.stderr + done.stdout


def test_an_unknown_flag_prints_usage_and_a_missing_model_ends_the_start(run):
    done = run("--model_nam=x")
    assert done.returncode == 255
    said = done.stdout + done.stderr
    assert "unknown argument: --model_nam=x" in said and "--model_base_path" in said
    assert "server_options.model_base_path and server_options.model_config_file are empty" in said


def test_a_taken_port_ends_the_start_before_anything_is_loaded(run, binary, tmp_path):
    if binary:
        pytest.skip("the stock server loads first, and shares a port for gRPC")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(f"--model_base_path={tmp_path}", f"--port={port}")
    assert done.returncode == 255 and "Traceback" not in done.stderr
    assert f"Port {port} of --port cannot be opened: Address already in use" in done.stderr


def test_two_servers_on_one_port_are_a_clear_error(start, binary, half):
    if binary:
        pytest.skip("the stock server would share it")
    first = start(f"--model_base_path={half}").server
    for flag, port in (("port", first.grpc_port), ("rest_api_port", first.rest_port)):
        with pytest.raises(DidNotStart, match=f"Port {port} of --{flag} cannot be opened"):
            start(f"--model_base_path={half}", f"--{flag}={port}")
    assert first.get("/v1/models/default").status == 200


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight_and_exits_0(start, binary, slow):
    if binary:
        pytest.skip("the stock server does not drain")
    server, wire, log = start(f"--model_base_path={slow}", "--model_name=slow", process=True)
    with ThreadPoolExecutor(3) as pool:
        wire.outputs("slow", {"x": [0.0]})
        asked = [pool.submit(wire.outputs, "slow", {"x": [float(i)]}) for i in range(3)]
        time.sleep(0.1)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
        assert [task.result()["y"].tolist() for task in asked] == [[1.0], [2.0], [3.0]]
    assert "stopping" in log() and "Traceback" not in log()


@pytest.mark.slow
def test_sigterm_while_waiting_for_a_first_version_exits_0(binary, tmp_path):
    if binary:
        pytest.skip("the stock server dies of the signal")
    (tmp_path / "empty").mkdir()
    server = ServerProcess(tmp_path / "run", f"--model_base_path={tmp_path / 'empty'}", wait_s=0)
    until(lambda: "No versions of servable default" in server.text(), 60)
    assert server.stop() == 0


@pytest.mark.slow
def test_a_model_that_never_loads_ends_the_start_with_255(run, tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    flags = ("--max_num_load_retries=1", "--load_retry_interval_micros=1000")
    done = run(f"--model_base_path={tmp_path / 'm'}", f"--port={free_port()}", *flags)
    said = done.stdout + done.stderr
    assert done.returncode == 255 and "Traceback" not in said
    assert "Failed to start server. Error: " in said
    assert "1 servable(s) did not become available: {" in said
