"""pergola-model-server as a process: signals, exit statuses, what it says."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.servers import ROOT, ServerProcess


def run(*flags: str, timeout_s: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "serving.server", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def test_a_broken_config_file_ends_the_start_with_one_sentence(tmp_path):
    file = tmp_path / "models.config"
    file.write_text("model_config_list { config {")
    done = run(f"--model_config_file={file}")
    assert done.returncode == 255 and "Traceback" not in done.stderr
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in done.stderr
    assert str(file) in done.stderr


def test_a_taken_port_ends_the_start_before_anything_is_loaded(tmp_path):
    import socket

    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(f"--model_base_path={tmp_path}", f"--port={port}")
    assert done.returncode == 255 and "Traceback" not in done.stderr
    assert f"Port {port} of --port cannot be opened: Address already in use" in done.stderr


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_flight_and_exits_0(slow, tmp_path):
    from tests.support.wire import Wire

    flags = (f"--model_base_path={slow}", "--model_name=slow")
    with (
        ServerProcess(tmp_path, *flags) as server,
        Wire(server.address) as wire,
        ThreadPoolExecutor(3) as pool,
    ):
        wire.outputs("slow", {"x": [0.0]})
        asked = [pool.submit(wire.outputs, "slow", {"x": [float(i)]}) for i in range(3)]
        time.sleep(0.1)
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10
        assert [task.result()["y"].tolist() for task in asked] == [[1.0], [2.0], [3.0]]
        assert "stopping" in server.text() and "Traceback" not in server.text()


@pytest.mark.slow
def test_sigterm_while_waiting_for_a_first_version_exits_0(tmp_path):
    (tmp_path / "empty").mkdir()
    server = ServerProcess(tmp_path / "run", f"--model_base_path={tmp_path / 'empty'}", wait_s=0)
    end = time.monotonic() + 60
    while "No versions of servable default" not in server.text():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.stop() == 0


@pytest.mark.slow
def test_a_model_that_never_loads_ends_the_start_with_255(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    done = run(
        f"--model_base_path={tmp_path / 'm'}", "--port=-1", "--max_num_load_retries=1",
        "--load_retry_interval_micros=1000",
    )  # fmt: skip
    assert done.returncode == 255
    assert "Failed to start server. Error: 1 servable(s) did not become available: {" in done.stderr
    assert "Traceback" not in done.stderr
