"""`mlflow models serve` as a child process, on the environment that is already there."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pergola.serving.tools.child_server import free_port


@contextlib.contextmanager
def mlflow_server(model: Path, timeout_s: float = 240.0) -> Iterator[int]:
    """Serves a saved MLflow model; gives its port."""
    port = free_port()
    folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    words = [f"{folder}/mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    words += ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait(port, process, time.monotonic() + timeout_s)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait(port: int, process: subprocess.Popen[bytes], ends: float) -> None:
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RuntimeError(f"mlflow models serve ended with status {process.returncode}.")
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/ping")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError("mlflow models serve did not come up in time.")
