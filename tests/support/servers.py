"""Live model servers for tests: a process of its own, or one in this process. Ports are free ones."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes
    headers: dict[str, str]

    def json(self):
        return json.loads(self.body)


class LiveServer:
    """A server that somebody else started: where it answers, and how to talk to it over HTTP."""

    def __init__(self, host: str, grpc_port: int | None, rest_port: int | None) -> None:
        self.host, self.grpc_port, self.rest_port = host, grpc_port, rest_port

    @property
    def address(self) -> str:
        """For a gRPC channel."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def rest(self) -> str:
        """Base address of the REST API."""
        return f"http://{self.host}:{self.rest_port}"

    def get(self, path: str, timeout_s: float = 30) -> Reply:
        """GET below the REST address."""
        return fetch(self.rest + path, timeout_s=timeout_s)

    def post(self, path: str, body, headers: dict[str, str] | None = None, timeout_s: float = 30) -> Reply:
        """POST bytes, or anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return fetch(self.rest + path, data, headers, timeout_s)


class ServerProcess(LiveServer):
    """`pergola-model-server` in a process of its own.

    with ServerProcess(scratch, "--model_name=m", "--model_base_path=/models/m") as server:
        server.address        "localhost:34567" for gRPC
        server.rest           "http://localhost:34568"
        server.post("/v1/models/m:predict", {"instances": [1.0]})

    `--port` and `--rest_api_port` are any free ones unless given. Waits until both are open. `binary`
    runs the stock tensorflow_model_server instead.
    """

    def __init__(
        self,
        scratch: Path,
        *flags: str,
        wait_s: float = 120,
        env: dict[str, str] | None = None,
        binary: str | None = None,
    ) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.log = scratch / "server.log"
        self._ports = scratch / "ports.json"
        self._ports.unlink(missing_ok=True)
        self._expected: dict[str, int | None] = {}
        super().__init__("localhost", None, None)
        given = {flag.lstrip("-").partition("=")[0] for flag in flags}
        open_ports = [name for name in ("port", "rest_api_port") if name not in given]
        if binary is None:
            own = [f"--port_file={self._ports}", *(f"--{name}=-1" for name in open_ports)]
            command = [sys.executable, "-m", "pergola.serving.server.app", *own, *flags]
        else:
            chosen = {name: _free_port() for name in open_ports}
            self._expected = {"grpc": chosen.get("port"), "rest": chosen.get("rest_api_port")}
            command = [binary, *(f"--{name}={port}" for name, port in chosen.items()), *flags]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **(env or {})}
            )
        if wait_s:
            self.wait(wait_s)

    def wait(self, timeout_s: float = 120) -> None:
        """Wait until the ports are open."""
        until = time.monotonic() + timeout_s
        while not self._are_open():
            if self.process.poll() is not None:
                raise RuntimeError(f"The server ended with {self.process.returncode}:\n{self.text()}")
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"The server did not start in {timeout_s} s:\n{self.text()}")
            time.sleep(0.02)
        ports = self._expected or json.loads(self._ports.read_text())
        self.grpc_port, self.rest_port = ports["grpc"], ports["rest"]

    def _are_open(self) -> bool:
        if not self._expected:
            return self._ports.exists()
        for port in filter(None, self._expected.values()):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)):
                    return False
        return True

    def text(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log.read_text(errors="replace")

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self, timeout_s: float = 40) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def models_config(*entries: tuple) -> str:
    """The text of a model config file, of (name, base path[, more of its config])."""
    parts = [
        f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {" ".join(more)} }}'
        for name, base, *more in entries
    ]
    return f"model_config_list {{ {' '.join(parts)} }}"


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait for what happens in a server by itself."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(
    url: str, data: bytes | None = None, headers: dict[str, str] | None = None, timeout_s: float = 30
) -> Reply:
    """GET, or POST where there is data. Errors are replies too."""
    request = urllib.request.Request(url, data, headers or {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return Reply(answer.status, answer.read(), dict(answer.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.read(), dict(error.headers))


@contextmanager
def in_process(*flags: str) -> Iterator:
    """A `pergola.serving.server.app.Server` in this process, started with flags; both ports are any free
    ones."""
    from pergola.serving.server import flags as flag_list
    from pergola.serving.server import options
    from pergola.serving.server.app import Server

    server = Server(options.from_flags(flag_list.parse(["--port=-1", "--rest_api_port=-1", *flags])))
    try:
        yield server.start()
    finally:
        server.stop(5)
