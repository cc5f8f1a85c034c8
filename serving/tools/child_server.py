"""A model server as a child process: ours, or the stock one, with flags that both know.

with ChildServer(Path("/models/leaves"), "leaves") as server:
    Client(server.address, model="leaves").wait_until_available()
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pergola.serving.client.client import Client
from pergola.serving.client.errors import ClientError, ServerError

OURS = (sys.executable, "-m", "pergola.serving.server.app")


class ChildServer:
    """A server that has loaded `model` from `base_path`; it is stopped at the end of the `with` block.

    flags: more of tensorflow_model_server's, such as "--enable_batching".  command: which server.
    Raises ServerError with the end of its log when it does not come up within `timeout_s` seconds.
    """

    def __init__(
        self,
        base_path: Path,
        model: str,
        *flags: str,
        command: Sequence[str] = OURS,
        port: int | None = None,
        rest_port: int | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.model = model
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._words = [
            *command,
            f"--port={self.port}",
            f"--model_name={model}",
            f"--model_base_path={base_path.absolute()}",
            *([f"--rest_api_port={rest_port}"] if rest_port else []),
            *flags,
        ]
        self._timeout_s = timeout_s
        self._log: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process number. Raises RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError("The server is not running. Start it first.")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until a version is available."""
        self._log = self._log or tempfile.TemporaryFile(prefix="pergola-server-")  # noqa: SIM115 closed in stop
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
        self._process = subprocess.Popen(
            self._words, stdout=self._log, stderr=subprocess.STDOUT, env=environment
        )
        ends = time.monotonic() + self._timeout_s
        with Client(self.address, model=self.model) as client:
            while True:
                if self._process.poll() is not None or time.monotonic() > ends:
                    raise ServerError(f"{self._words[0]} did not come up. Its log ends: {self.log_end()}")
                with contextlib.suppress(ClientError):
                    client.wait_until_available(timeout_s=0.5)
                    return

    def stop(self, timeout_s: float = 30.0) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()
        if self._log is not None:
            self._log.close()
            self._log = None

    def kill(self) -> None:
        """SIGKILL, at once. It can be started again."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def cpu_s(self) -> float:
        """CPU seconds that the process has taken so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_end(self, num_bytes: int = 2000) -> str:
        """The last of what it wrote."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - num_bytes))
        return bytes(self._log.read()).decode(errors="replace").strip() or "it wrote nothing."


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
