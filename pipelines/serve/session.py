"""`pergola serve`: serve the workspace's models with TensorFlow Serving's API until stopped.

The server is a separate process (ours, or the stock tensorflow_model_server) that reads a model config file.
This module keeps that file at the live version of each model, and reports what is served.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pergola import extras
from pergola.components import records
from pergola.components.disk import explained
from pergola.components.errors import InputError, StepError
from pergola.components.release import champions
from pergola.components.store.models_config import quoted
from pergola.components.workspace import SERVE_LOCK, Workspace
from pergola.pipelines.release.resolve import model_names
from pergola.pipelines.serve.exposure import Exposure
from pergola.serving.tools.process import ChildProcess, python_command
from pergola.serving.wire.private_files import open_private, rotate

if TYPE_CHECKING:
    from pergola.serving.client.channel import Connection

Report = Callable[[str], None]

POLL_S = 0.5
PRUNE_S = 60.0
GRACE_S = 30.0
MAX_SERVER_LOG_BYTES = 16 << 20  # of serve.log; as much again is in serve.log.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LOCAL = Exposure()


@dataclass(frozen=True)
class Ports:
    """Ports to listen on; 0 picks a free one."""

    grpc: int
    rest: int

    def checked(self, exposure: Exposure) -> Ports:
        """The ports, with a free one for each 0. Raises InputError if one is in use."""
        return Ports(exposure.free_port(self.grpc, "--port"), exposure.free_port(self.rest, "--rest-port"))


@dataclass(frozen=True)
class LogOptions:
    """Which requests are logged, with their images."""

    share: float = 0.0  # 0 to 1
    max_bytes: int = 1_000_000_000  # per model; the oldest files are deleted first
    max_age_s: float = 0.0  # older files are deleted; 0 keeps them


NO_LOG = LogOptions()


def serve(
    workspace: Workspace,
    ports: Ports,
    *,
    model: str | None = None,
    stock_server: bool = False,
    report: Report,
    log: LogOptions = NO_LOG,
    exposure: Exposure = LOCAL,
    public_key: Path | None = None,
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
    if stock_server and public_key:
        raise InputError(
            "The stock server cannot verify signatures. Leave out --stock-server or --require-signature."
        )
    program, exposure = _program(stock_server), exposure.checked(stock_server)
    only = (model,) if model else None
    session = ServeSession(workspace, ports.checked(exposure), only, report, log, exposure)
    flags = exposure.flags(workspace.root, stock_server)
    if not stock_server:
        flags.append("--verify_checksums")
    if public_key:
        flags.append(f"--require_signature={_checked_key(public_key, workspace, model)}")
    with (
        explained(workspace.root),
        workspace.lock("pergola serve", SERVE_LOCK),
        _stop_signals() as stop,
        session.process([*program, *flags]) as process,
    ):
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
    exposure: Exposure = LOCAL
    pruned_s: float = 0.0  # when the log was last reduced to its maximum size
    served: tuple[str, ...] = ()
    reported: dict[tuple[str, int], str] = field(default_factory=dict)  # state of (model, version)

    @property
    def grpc(self) -> str:
        """Address for gRPC clients on this machine."""
        return self.exposure.local_address(self.ports.grpc)

    @property
    def rest(self) -> str:
        """Address for REST clients on this machine."""
        return f"http://{self.exposure.local_address(self.ports.rest)}"

    @contextmanager
    def process(self, program: list[str]) -> Iterator[ChildProcess]:
        """The server, which is stopped at the end of the block."""
        self._record.unlink(missing_ok=True)  # of a session that was killed
        self._repair_live()
        self._write_models()
        arguments = [
            f"--port={self.ports.grpc}",
            f"--rest_api_port={self.ports.rest}",
            f"--model_config_file={self.workspace.models_config}",
            "--model_config_file_poll_wait_seconds=1",
            "--file_system_poll_wait_seconds=1",
        ]
        with open_private(self.log) as log:
            process = ChildProcess([*program, *arguments], output=log)
        try:
            yield process
        finally:
            self._record.unlink(missing_ok=True)
            process.stop(GRACE_S)

    def watch(self, process: ChildProcess, stop: list[int]) -> None:
        """Until stopped: follow what is released, and report the state of each version."""
        self.report(f"Starting the server for {self.workspace.root} …")
        while not stop:
            if (status := process.poll()) is not None:
                raise StepError(f"The server exited unexpectedly with status {status}; see {self.log}")
            self._write_models()
            if self._is_open():
                self._announce()
                self._report_versions()
            self._prune_log()
            rotate(self.log, MAX_SERVER_LOG_BYTES)
            time.sleep(POLL_S)
        self.report("Stopping after the requests in flight.")

    @property
    def log(self) -> Path:
        """File with the output of the server."""
        return self.workspace.root / "serve.log"

    @property
    def _record(self) -> Path:
        """File that says where the server listens, while it does."""
        return self.workspace.root / "serve.json"

    def _repair_live(self) -> None:
        """A server that starts needs a sound version of each model: repair those that it would load."""
        for name in self.only or model_names(self.workspace):
            while (live := champions.live_version(self.workspace, name)) and self._repair(name, live):
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
        log, share = self.workspace.request_log, self.log_requests.share
        self.served = champions.write_models_config(
            self.workspace, lambda name: logging_config(log(name), share) if share else "", self.only or ()
        )

    def _prune_log(self) -> None:
        from pergola.components.evaluation.drift.request_log import prune

        if (
            not (self.log_requests.share or self.log_requests.max_age_s)
            or time.monotonic() - self.pruned_s < PRUNE_S
        ):
            return
        self.pruned_s = time.monotonic()
        for name in self.served:
            options = self.log_requests
            prune(self.workspace.request_log(name), options.max_bytes, options.max_age_s)

    def _report_versions(self) -> None:
        from pergola.serving.client import NO_RETRY, Client, ClientError

        for name in self.served:
            try:
                with Client(
                    self.grpc, model=name, timeout_s=1.0, retry=NO_RETRY, connection=self._connection
                ) as client:
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
        return self.exposure.answers(self.ports.grpc) and self.exposure.answers(self.ports.rest)

    @property
    def _connection(self) -> Connection:
        from pergola.serving.client.channel import Connection

        # The server is on this machine, whatever its address.
        return Connection(token=self.exposure.token, plain_token=True)

    def _announce(self) -> None:
        """Report the addresses, once, and store them for `pergola predict`."""
        if not self._record.exists():
            place = {"pid": os.getpid(), "grpc": self.grpc, "rest": self.rest}
            records.write_atomic(self._record, json.dumps(place) + "\n")
            grpc, rest = self.exposure.address(self.ports.grpc), self.exposure.address(self.ports.rest)
            self.report(f"gRPC at {grpc}, REST at http://{rest}/v1/models/{(*self.served, 'NAME')[0]}")
            for warning in self.exposure.warnings():
                self.report(warning)
            if self.log_requests.share:
                self.report(
                    f"Logging {self.log_requests.share:.0%} of the requests to {self.workspace.requests}"
                )
            self.report("Classify an image: pergola predict IMAGE. Stop: Ctrl-C.")


def logging_config(prefix: str, share: float) -> str:
    """Lines of a model's entry in models.config that log a share of its requests, 0 to 1.

    prefix: of the files of its request log.
    """
    return (
        "    logging_config {\n"
        f'      log_collector_config {{ type: "file" filename_prefix: {quoted(prefix)} }}\n'
        f"      sampling_config {{ sampling_rate: {share} }}\n    }}\n"
    )


def _checked_key(key: Path, workspace: Workspace, model: str | None) -> Path:
    """The key, once the live versions are found to be signed with it: else no server would start."""
    from pergola.components.store.checksums import verify_signature

    if not key.is_file():
        raise InputError(f"--require-signature: there is no public key at {key}. Check the path.")
    extras.require("model_signing")
    for name in (model,) if model else model_names(workspace):
        if live := champions.live_version(workspace, name):
            verify_signature(workspace.models / name / str(live), key)
    return key.absolute()


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


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list of the signals to stop that the process has received. One that it ignores (nohup) stays so."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
