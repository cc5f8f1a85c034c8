"""A model server of our own in a process of its own, reached by a Unix socket.

It serves nothing at first; models are named over gRPC. So it can be started long before there is a
model, and load TensorFlow while the network still trains.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pergola.components.errors import StepError
from pergola.serving.tools.process import ChildProcess, python_command
from pergola.serving.wire.contract import TOKEN_VARIABLE

if TYPE_CHECKING:
    from pergola.serving.client import Client

_MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes
_STOP_S = 8.0

# The smoke test runs on the CPU: it must not compete with training for the GPU's memory. Its socket lies in a
# folder of its own, so it needs no token.
_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2", TOKEN_VARIABLE: ""}


class ServerProcess:
    """Starts with `start`, which returns at once; always stopped by `stop`, or when this process ends."""

    def __init__(self, *, start_timeout_s: float = 120.0) -> None:
        self._start_timeout_s = start_timeout_s
        self._process: ChildProcess | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process if it does not run yet."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._folder = _short_folder()
        (self._folder / "models.config").write_text("model_config_list {}\n")
        command = python_command(
            "pergola.serving.server.app",
            "--port=0",
            f"--grpc_socket_path={self._socket}",
            f"--model_config_file={self._folder / 'models.config'}",
            "--max_num_load_retries=0",
        )
        with open(self._folder / "log", "wb") as log:
            self._process = ChildProcess(
                command, output=log, folder=self._folder, env=_ENVIRONMENT, cwd=self._folder
            )

    def client(self, model: str, version: int | None = None, *, timeout_s: float = 60.0) -> Client:
        """A client of this server. Waits until it takes requests; starts it when it does not run.

        Raises StepError with the last lines of its log when it died or is not up in time.
        """
        from pergola.serving.client import Client

        self.start()
        self._wait_for_socket()
        return Client(f"unix:{self._socket}", model=model, version=version, timeout_s=timeout_s)

    @property
    def folder(self) -> Path:
        """A folder that lives as long as the process."""
        if self._folder is None:
            raise RuntimeError("The server process was not started.")
        return self._folder

    @property
    def status(self) -> int | None:
        """Exit status; None while it runs."""
        return None if self._process is None else self._process.poll()

    def last_lines(self, count: int = 8) -> str:
        """The end of its log."""
        if self._folder is None:
            return ""
        lines = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(line[:400] for line in lines[-count:])

    def stop(self) -> None:
        """Stop the process and take its folder away."""
        if self._process is not None:
            self._process.stop(_STOP_S)
            self._process = self._folder = None

    @property
    def _socket(self) -> Path:
        return self.folder / "grpc"

    def _wait_for_socket(self) -> None:
        ends = time.monotonic() + self._start_timeout_s
        while not self._socket.exists():
            if self.status is not None:
                raise StepError(
                    f"The model server ended with status {self.status} when it started. Its last lines:\n"
                    f"{self.last_lines()}"
                )
            if time.monotonic() > ends:
                raise StepError(
                    f"The model server was not up after {self._start_timeout_s:g} s. Its last lines:\n"
                    f"{self.last_lines()}"
                )
            time.sleep(0.02)


def _short_folder() -> Path:
    """A temporary folder whose name leaves room for a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="pergola-"))
    if len(os.fsencode(folder)) + len("/grpc") <= _MAX_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="pergola-", dir="/tmp"))
