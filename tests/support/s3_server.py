"""A real S3 server (Versity's gateway over a folder) on a free port, where its program is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "versitygw"
TOOLS = Path(__file__).resolve().parents[2] / ".tools"
BUCKET = "models"


def program() -> str | None:
    """Where the server's program is: on the PATH or where scripts/kustomize-tools puts it."""
    return shutil.which(PROGRAM) or shutil.which(PROGRAM, path=str(TOOLS))


@dataclass(frozen=True)
class S3Server:
    """A server with one bucket. Its environment is what botocore reads."""

    port: int
    buckets: Path  # each object is a file below it

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "pergola",
            "AWS_SECRET_ACCESS_KEY": "pergola-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server over `folder`; stopped and gone afterwards."""
    buckets = folder / "buckets"
    (buckets / BUCKET).mkdir(parents=True)
    port = free_port()
    credentials = {"ROOT_ACCESS_KEY": "pergola", "ROOT_SECRET_KEY": "pergola-secret"}
    with open(folder / "s3.log", "wb") as log:
        command = [program() or PROGRAM, "--quiet", "--port", f"127.0.0.1:{port}", "posix", str(buckets)]
        process = subprocess.Popen(command, env={**os.environ, **credentials}, stdout=log, stderr=log)
        try:
            _wait(port, process)
            yield S3Server(port, buckets)
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"The S3 server did not start; its exit status is {process.poll()}.")
