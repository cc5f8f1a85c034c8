"""`pergola serve`: the workspace's models behind TF-Serving's protocol, until stopped.

The server is a process of its own (ours, or the stock tensorflow_model_server) that reads a model
config file; this front writes that file, adds models as they are published, and says what is served.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pergola import extras
from pergola.components import records
from pergola.components.errors import InputError, StepError
from pergola.components.workspace import Workspace
from pergola.pipelines.release.resolve import model_names
from pergola.serving.tools.process import ChildProcess, python_command

Say = Callable[[str], None]

POLL_S = 0.5
PRUNE_S = 60.0
GRACE_S = 30.0


@dataclass(frozen=True)
class Listen:
    """Ports to listen on; 0 takes a free one."""

    grpc: int
    rest: int

    def checked(self) -> Listen:
        """The ports with numbers filled in. Raises InputError when one is in use."""
        return Listen(_free_port(self.grpc, "--port"), _free_port(self.rest, "--rest-port"))


@dataclass(frozen=True)
class Log:
    """Which requests are kept, with their images."""

    share: float = 0.0  # 0 to 1
    max_bytes: int = 1_000_000_000  # a model; the oldest files go first


NO_LOG = Log()


def serve(
    workspace: Workspace,
    listen: Listen,
    *,
    model: str | None = None,
    real: bool = False,
    say: Say,
    log: Log = NO_LOG,
) -> dict[str, Any]:
    """Serve until SIGTERM or Ctrl-C; returns where it listened.

    Raises InputError for a port in use, an unknown model, a workspace that is served already or a
    stock server that is not on the PATH; StepError when the server dies by itself.
    """
    workspace.require()
    if model is not None and model not in model_names(workspace):
        raise InputError(
            f"No model '{model}' in {workspace.root}.{records.nearest(model, model_names(workspace))}"
        )
    if other := workspace.server():
        raise InputError(f"{workspace.root} is served already, at {other['grpc']} (process {other['pid']}).")
    if real and log.share:
        raise InputError(
            "--log-requests: the stock server comes without a log. Leave --real out, or log in the client."
        )
    listen = listen.checked()
    front = Front(workspace, listen, (model,) if model else None, say, log)
    with _stop_signals() as stop, front.process(_program(real)) as process:
        front.watch(process, stop)
    return {"grpc": front.grpc, "rest": front.rest}


@dataclass
class Front:
    """What is told to the server, and to the person."""

    workspace: Workspace
    listen: Listen
    only: tuple[str, ...] | None
    say: Say
    log_requests: Log = NO_LOG
    pruned_s: float = 0.0  # when the log was last cut to its size
    served: tuple[str, ...] = ()
    told: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def grpc(self) -> str:
        """Address for gRPC clients."""
        return f"localhost:{self.listen.grpc}"

    @property
    def rest(self) -> str:
        """Address for REST clients."""
        return f"http://localhost:{self.listen.rest}"

    @contextmanager
    def process(self, program: list[str]) -> Iterator[ChildProcess]:
        """The server, which ends with this block."""
        self._write_models()
        arguments = [
            f"--port={self.listen.grpc}",
            f"--rest_api_port={self.listen.rest}",
            f"--model_config_file={self._models_config}",
            "--model_config_file_poll_wait_seconds=1",
            "--file_system_poll_wait_seconds=1",
        ]
        with open(self.log, "ab") as log:
            process = ChildProcess([*program, *arguments], output=log)
        try:
            yield process
        finally:
            (self.workspace.root / "serve.json").unlink(missing_ok=True)
            process.stop(GRACE_S)

    def watch(self, process: ChildProcess, stop: list[int]) -> None:
        """Until stopped: note new models, and say what became of each version."""
        self.say(f"Starting the server for {self.workspace.root} …")
        while not stop:
            if (status := process.poll()) is not None:
                raise StepError(f"The server ended by itself, status {status}. Its words are in {self.log}")
            self._write_models()
            if self._is_open():
                self._announce()
                self._tell_versions()
            self._prune_log()
            time.sleep(POLL_S)
        self.say("Stopping: finishing what is in flight.")

    @property
    def log(self) -> Path:
        """What the server writes."""
        return self.workspace.root / "serve.log"

    @property
    def _models_config(self) -> Path:
        return self.workspace.root / "models.config"

    def _write_models(self) -> None:
        names = self.only or tuple(model_names(self.workspace))
        if names != self.served or not self._models_config.exists():
            text = models_config(
                names, self.workspace.models, log=self.workspace.request_log, share=self.log_requests.share
            )
            records.write_atomic(self._models_config, text)
            self.served = names

    def _prune_log(self) -> None:
        from pergola.components.evaluation.drift.request_log import prune

        if not self.log_requests.share or time.monotonic() - self.pruned_s < PRUNE_S:
            return
        self.pruned_s = time.monotonic()
        for name in self.served:
            prune(self.workspace.request_log(name), self.log_requests.max_bytes)

    def _tell_versions(self) -> None:
        from pergola.serving.client.client import NO_RETRY, Client, ClientError

        for name in self.served:
            try:
                with Client(self.grpc, model=name, timeout_s=1.0, retry=NO_RETRY) as client:
                    versions = client.status()
            except ClientError:
                continue
            for version in versions:
                if self.told.get((name, version.version)) != version.state:
                    self.told[name, version.version] = version.state
                    self.say(f"{name} version {version.version} {version.state} {version.error}".rstrip())

    def _is_open(self) -> bool:
        """Whether the server has its first models: both ports open then."""
        return _answers(self.listen.grpc) and _answers(self.listen.rest)

    def _announce(self) -> None:
        """Say where it listens, once, and leave that where `pergola predict` finds it."""
        path = self.workspace.root / "serve.json"
        if not path.exists():
            place = {"pid": os.getpid(), "grpc": self.grpc, "rest": self.rest}
            records.write_atomic(path, json.dumps(place) + "\n")
            self.say(f"gRPC at {self.grpc}, REST at {self.rest}/v1/models/{(*self.served, 'NAME')[0]}")
            if self.log_requests.share:
                self.say(
                    f"Keeping {self.log_requests.share:.0%} of the requests in {self.workspace.requests}"
                )
            self.say("Ask it:  pergola predict IMAGE    Stop it:  Ctrl-C")


def models_config(
    names: Iterable[str], base: Path, *, log: Callable[[str], str] = str, share: float = 0.0
) -> str:
    """The model config file: these models, each at its newest version below base/<name>/.

    log: name -> where its requests are kept, a prefix of files.  share: of the requests, 0 to 1.
    """
    entries = "".join(
        f"  config {{\n    name: {json.dumps(name)}\n    base_path: {json.dumps(str(base / name))}\n"
        f'    model_platform: "tensorflow"\n{_logging_config(log(name), share) if share else ""}  }}\n'
        for name in names
    )
    return f"model_config_list {{\n{entries}}}\n"


def _logging_config(prefix: str, share: float) -> str:
    return (
        "    logging_config {\n"
        f'      log_collector_config {{ type: "file" filename_prefix: {json.dumps(prefix)} }}\n'
        f"      sampling_config {{ sampling_rate: {share} }}\n    }}\n"
    )


def _program(real: bool) -> list[str]:
    if not real:
        extras.require("tensorflow")
        return python_command("pergola.serving.server.app")
    stock = shutil.which("tensorflow_model_server")
    if stock is None:
        raise InputError("--real wants tensorflow_model_server on the PATH, and it is not. Leave --real out.")
    return [stock]


def _free_port(port: int, flag: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise InputError(
                f"Port {port} cannot be used: {error.strerror}. Stop what uses it, or choose with {flag} N."
            ) from None
        except OverflowError:
            raise InputError(f"{flag} {port} is no port: wanted 0 to 65535.") from None
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
