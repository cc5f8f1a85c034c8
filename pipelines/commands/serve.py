"""`pergola serve`: serve the workspace's models with TensorFlow Serving's API until stopped.

The server is a separate process (ours, or the stock tensorflow_model_server) that reads a model config file.
This module writes that file, adds models as they are published, and reports what is served.
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

Report = Callable[[str], None]

POLL_S = 0.5
PRUNE_S = 60.0
GRACE_S = 30.0


@dataclass(frozen=True)
class Ports:
    """Ports to listen on; 0 picks a free one."""

    grpc: int
    rest: int

    def checked(self) -> Ports:
        """The ports, with a free one for each 0. Raises InputError if one is in use."""
        return Ports(_free_port(self.grpc, "--port"), _free_port(self.rest, "--rest-port"))


@dataclass(frozen=True)
class LogOptions:
    """Which requests are logged, with their images."""

    share: float = 0.0  # 0 to 1
    max_bytes: int = 1_000_000_000  # per model; the oldest files are deleted first


NO_LOG = LogOptions()


def serve(
    workspace: Workspace,
    ports: Ports,
    *,
    model: str | None = None,
    stock_server: bool = False,
    report: Report,
    log: LogOptions = NO_LOG,
) -> dict[str, Any]:
    """Serve until SIGTERM or Ctrl-C; returns the addresses it listened on.

    Raises InputError for a port in use, an unknown model, a workspace that is already served or a
    stock server that is not on the PATH; StepError if the server exits unexpectedly.
    """
    workspace.require()
    if model is not None and model not in model_names(workspace):
        nearest = records.nearest(model, model_names(workspace))
        raise InputError(f"There is no model '{model}' in {workspace.root}.{nearest}")
    if other := workspace.server():
        raise InputError(
            f"{workspace.root} is already served at {other['grpc']} (process {other['pid']}). Use that "
            "server, or stop it first."
        )
    if stock_server and log.share:
        raise InputError(
            "The stock server cannot log requests. Leave out --stock-server or --log-requests, or log in the "
            "client."
        )
    flags = () if stock_server else ("--verify_checksums",)
    session = ServeSession(workspace, ports.checked(), (model,) if model else None, report, log, flags)
    with _stop_signals() as stop, session.process(_program(stock_server)) as process:
        session.watch(process, stop)
    return {"grpc": session.grpc, "rest": session.rest}


@dataclass
class ServeSession:
    """A running server: its configuration, and the messages about it."""

    workspace: Workspace
    ports: Ports
    only: tuple[str, ...] | None
    report: Report
    log_requests: LogOptions = NO_LOG
    more_flags: tuple[str, ...] = ()
    pruned_s: float = 0.0  # when the log was last reduced to its maximum size
    served: tuple[str, ...] = ()
    reported: dict[tuple[str, int], str] = field(default_factory=dict)  # state of (model, version)

    @property
    def grpc(self) -> str:
        """Address for gRPC clients."""
        return f"localhost:{self.ports.grpc}"

    @property
    def rest(self) -> str:
        """Address for REST clients."""
        return f"http://localhost:{self.ports.rest}"

    @contextmanager
    def process(self, program: list[str]) -> Iterator[ChildProcess]:
        """The server, which is stopped at the end of the block."""
        self._models_config.unlink(missing_ok=True)  # of a server before
        self._repair_newest()
        self._write_models()
        arguments = [
            f"--port={self.ports.grpc}",
            f"--rest_api_port={self.ports.rest}",
            f"--model_config_file={self._models_config}",
            "--model_config_file_poll_wait_seconds=1",
            "--file_system_poll_wait_seconds=1",
            *self.more_flags,
        ]
        with open(self.log, "ab") as log:
            process = ChildProcess([*program, *arguments], output=log)
        try:
            yield process
        finally:
            (self.workspace.root / "serve.json").unlink(missing_ok=True)
            process.stop(GRACE_S)

    def watch(self, process: ChildProcess, stop: list[int]) -> None:
        """Until stopped: add new models, and report the state of each version."""
        self.report(f"Starting the server for {self.workspace.root} …")
        while not stop:
            if (status := process.poll()) is not None:
                raise StepError(f"The server exited unexpectedly with status {status}; see {self.log}")
            self._write_models()
            if self._is_open():
                self._announce()
                self._report_versions()
            self._prune_log()
            time.sleep(POLL_S)
        self.report("Stopping after the requests in flight.")

    @property
    def log(self) -> Path:
        """File with the output of the server."""
        return self.workspace.root / "serve.log"

    @property
    def _models_config(self) -> Path:
        return self.workspace.root / "models.config"

    def _asked(self) -> tuple[str, ...]:
        return self.only or tuple(model_names(self.workspace))

    def _repair_newest(self) -> None:
        """A server that starts needs a sound version of each model: repair those that it would load."""
        from pergola.components.store.publish import published

        for name in self._asked():
            while (numbers := published(self.workspace.models, name)) and self._repair(name, numbers[-1]):
                pass

    def _repair(self, name: str, version: int) -> bool:
        """Whether a version was damaged and is now another, or gone. Says so."""
        from pergola.components.release.repair import repair
        from pergola.components.store.publish import damage_of

        folder = self.workspace.models / name / str(version)
        if not damage_of(folder):
            return False
        said = repair(self.workspace, name, version)
        if said:
            self.report(said)
        return not folder.is_dir() or bool(damage_of(folder))

    def _write_models(self) -> None:
        from pergola.components.store.publish import published

        # A model without a version comes later: a server that starts would wait for it.
        names = tuple(name for name in self._asked() if published(self.workspace.models, name))
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

    def _report_versions(self) -> None:
        from pergola.serving.client import NO_RETRY, Client, ClientError

        for name in self.served:
            try:
                with Client(self.grpc, model=name, timeout_s=1.0, retry=NO_RETRY) as client:
                    versions = client.status()
            except ClientError:
                continue
            for version in versions:
                if self.reported.get((name, version.version)) != version.state:
                    self.reported[name, version.version] = version.state
                    self.report(f"{name} version {version.version} {version.state} {version.error}".rstrip())
                    if version.state == "END" and version.error:
                        self._repair(name, version.version)

    def _is_open(self) -> bool:
        """Whether the server has loaded its first models: both ports are open then."""
        return _answers(self.ports.grpc) and _answers(self.ports.rest)

    def _announce(self) -> None:
        """Report the addresses, once, and store them for `pergola predict`."""
        path = self.workspace.root / "serve.json"
        if not path.exists():
            place = {"pid": os.getpid(), "grpc": self.grpc, "rest": self.rest}
            records.write_atomic(path, json.dumps(place) + "\n")
            self.report(f"gRPC at {self.grpc}, REST at {self.rest}/v1/models/{(*self.served, 'NAME')[0]}")
            if self.log_requests.share:
                self.report(
                    f"Logging {self.log_requests.share:.0%} of the requests to {self.workspace.requests}"
                )
            self.report("Classify an image: pergola predict IMAGE. Stop: Ctrl-C.")


def models_config(
    names: Iterable[str], base: Path, *, log: Callable[[str], str] = str, share: float = 0.0
) -> str:
    """The model config file: these models, each at its newest version below base/<name>/.

    log: name -> prefix of the files of its request log.  share: of the requests that are logged, 0 to 1.
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


def _program(stock_server: bool) -> list[str]:
    if not stock_server:
        extras.require("tensorflow")
        return python_command("pergola.serving.server.app")
    stock = shutil.which("tensorflow_model_server")
    if stock is None:
        raise InputError(
            "--stock-server needs tensorflow_model_server on the PATH, where it is not. Install it, or leave "
            "out --stock-server."
        )
    return [stock]


def _free_port(port: int, flag: str) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise InputError(
                f"Port {port} cannot be used: {error.strerror}. Stop the program that uses "
                f"it, or choose another with {flag}."
            ) from None
        except OverflowError:
            raise InputError(f"{flag} {port} is not a port. Give a number from 0 to 65535.") from None
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list of the SIGTERM and SIGINT signals that the process has received."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
