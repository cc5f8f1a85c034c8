"""A model server as a child process: ours, or the stock one, with flags that both accept.

with ChildServer(Path("/models/leaves"), "leaves") as server:
    Client(server.address, model="leaves").wait_until_available()
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from pergola.serving.client import Client
from pergola.serving.client.errors import ClientError, ServerError
from pergola.serving.tools.process import ChildProcess, python_command
from pergola.serving.wire.contract import TOKEN_VARIABLE

OURS = tuple(python_command("pergola.serving.server.app"))


class ChildServer:
    """A server that has loaded `model` from `base_path`; it is stopped at the end of the `with` block.

    flags: more of tensorflow_model_server's, such as "--enable_batching".  command: which server.
    folder: deleted when the server is stopped.  Raises ServerError with the end of the server's log when it
    is not available within `timeout_s` seconds.
    """

    def __init__(
        self,
        base_path: Path,
        model: str,
        *flags: str,
        command: Sequence[str] = OURS,
        port: int | None = None,
        rest_port: int | None = None,
        folder: Path | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.model = model
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._command = [
            *command,
            f"--port={self.port}",
            *(["--bind_address=127.0.0.1"] if tuple(command) == OURS else []),
            f"--model_name={model}",
            f"--model_base_path={base_path.absolute()}",
            *([f"--rest_api_port={rest_port}"] if rest_port else []),
            *flags,
        ]
        self._folder = folder
        self._timeout_s = timeout_s
        self._log: IO[bytes] | None = None
        self._process: ChildProcess | None = None

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
        """The process number. Raises RuntimeError when the server is not running."""
        if self._process is None:
            raise RuntimeError("The server is not running. Start it first.")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until a version is available."""
        self._log = self._log or tempfile.TemporaryFile(prefix="pergola-server-")  # noqa: SIM115 closed in stop
        level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
        # A token in this process's environment is for another server.
        env = {"TF_CPP_MIN_LOG_LEVEL": level, TOKEN_VARIABLE: ""}
        self._process = ChildProcess(self._command, output=self._log, folder=self._folder, env=env)
        ends = time.monotonic() + self._timeout_s
        with Client(self.address, model=self.model) as client:
            while True:
                if self._process.poll() is not None or time.monotonic() > ends:
                    raise ServerError(f"{self._command[0]} did not come up. Its log ends: {self.log_end()}")
                with contextlib.suppress(ClientError):
                    client.wait_until_available(timeout_s=0.5)
                    return

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def kill(self) -> None:
        """SIGKILL, at once. The server can be started again."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def cpu_s(self) -> float:
        """CPU seconds that the process has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log_end(self, num_bytes: int = 2000) -> str:
        """The last of what the server wrote."""
        assert self._log is not None
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - num_bytes))
        return bytes(self._log.read()).decode(errors="replace").strip() or "it wrote nothing."


def free_port() -> int:
    """A TCP port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
