"""A model server of our own in a process of its own, reached by a Unix socket.

It serves nothing at first; models are named over gRPC. So it can be started long before there is a
model, and load TensorFlow while the network still trains.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pergola
from pergola.components.errors import StepError

if TYPE_CHECKING:
    from pergola.serving.client.client import Client

log = logging.getLogger(__name__)

_MAX_SOCKET_PATH = 100  # the kernel's limit is 107 bytes
_STOP_S = 8.0


class ServerProcess:
    """Starts with `start`, which returns at once; always stopped by `stop`, or when this process ends."""

    def __init__(self, *, start_timeout_s: float = 120.0) -> None:
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
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
        command = [
            sys.executable, "-m", "pergola.components.release.parent_watchdog",
            str(self._folder), "pergola.serving.server.app",
            "--port=0", f"--grpc_socket_path={self._socket}",
            f"--model_config_file={self._folder / 'models.config'}",
            "--max_num_load_retries=0",
        ]  # fmt: skip
        with open(self._folder / "log", "wb") as file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=_environment(os.environ),
                start_new_session=True,
            )

    def client(self, model: str, version: int | None = None, *, timeout_s: float = 60.0) -> Client:
        """A client of this server. Waits until it takes requests; starts it when it does not run.

        Raises StepError with the last lines of its log when it died or is not up in time.
        """
        from pergola.serving.client.client import Client

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
            _end(self._process)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

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


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, wait, then force."""
    if process.stdin is not None:
        process.stdin.close()
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        log.warning("the model server did not stop within %g s and was killed", _STOP_S)
        process.kill()
        process.wait()


def _short_folder() -> Path:
    """A temporary folder whose name leaves room for a Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="pergola-"))
    if len(os.fsencode(folder)) + len("/grpc") <= _MAX_SOCKET_PATH:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="pergola-", dir="/tmp"))


def _environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The smoke test runs on the CPU: it must not fight with training for the GPU's memory."""
    root = str(Path(pergola.__file__).parents[1])
    paths = [root, *filter(None, [outer.get("PYTHONPATH")])]
    return {
        **outer,
        "PYTHONPATH": os.pathsep.join(paths),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
