"""pergola-model-server: a server that speaks TensorFlow Serving's protocol.

    pergola-model-server --model_base_path=/models/leaves --model_name=leaves --rest_api_port=8501

`main` is the command, `run` serves until SIGTERM, and `Server` is the same in a process of one's own:

    with Server(Options(models=(ModelConfig("leaves", Path("/models/leaves")),), grpc_port=0)) as server:
        print(server.grpc_port)
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from serving import config, flags, options
from serving.config import ModelConfig
from serving.errors import BadConfig, ServingError
from serving.limiter import Limiter
from serving.manager import Manager
from serving.model import Model
from serving.options import Options

log = logging.getLogger(__name__)

WAITING_PER_THREAD = 16  # requests that may wait, for each that may run
SPARE_THREADS = 4  # for status, metadata and health when the others are busy


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives the exit status: 0, or 255 as the stock server when it cannot start."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-help", "-h"} & set(words):
        sys.stdout.write(flags.usage())
        return 0
    try:
        parsed = flags.parse(words)
        _mention(parsed)
        if parsed.values["version"]:
            sys.stdout.write(_version())
            return 0
        chosen = options.from_flags(parsed)
    except flags.FlagError as error:
        return _refuse(str(error))
    _configure_process()
    return run(chosen)


def run(chosen: Options) -> int:
    """Serve until SIGTERM or SIGINT; then finish what is in flight. Gives the exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _n, _f: stop.set())
    try:
        server = Server(chosen)
    except (ServingError, OSError) as error:
        return _refuse(f"Failed to start server. Error: {error}")
    try:
        server.start(stop.is_set)
        stop.wait()
    except (ServingError, OSError) as error:
        server.stop(0)
        if stop.is_set():
            return 0
        return _refuse(f"Failed to start server. Error: {error}")
    log.info("stopping grace_s=%g", chosen.grace_s)
    server.stop(chosen.grace_s)
    return 0


class Server:
    """Models, a gRPC server and a REST server. Made stopped; `start` blocks until the models are up."""

    def __init__(self, chosen: Options) -> None:
        self._options = chosen
        self._configs = _configs(chosen)
        self._stopping = threading.Event()
        self.grpc_port: int | None = None
        self.rest_port: int | None = None
        self._grpc: Any = None
        self._rest: Any = None
        self._poller: threading.Thread | None = None
        self._limiter = Limiter(chosen.grpc_max_threads, chosen.grpc_max_threads * WAITING_PER_THREAD)
        self.manager = Manager(self._load, chosen.manager)

    def start(self, cancelled: Any = lambda: False) -> Self:
        """Load the models, then open the ports. Raises ServingError or OSError."""
        self.manager.apply(self._configs, cancelled=cancelled)
        self._open()
        if self._options.config_file and self._options.config_poll_s > 0:
            self._poller = threading.Thread(target=self._poll_config, name="config", daemon=True)
            self._poller.start()
        return self

    def reload(self, configs: list[ModelConfig], timeout_s: float | None = None) -> None:
        """Serve these models from now on. Raises ServingError."""
        self.manager.apply(configs, timeout_s, self._stopping.is_set)

    def stop(self, grace_s: float = 5.0) -> None:
        """Take no more requests, finish those in flight for at most `grace_s`, unload everything."""
        self._stopping.set()
        stopping = self._grpc.stop(grace_s) if self._grpc else None
        if self._rest:
            self._rest.stop(grace_s)
        if stopping:
            stopping.wait(grace_s + 1)
        self.manager.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _load(self, model: ModelConfig, version: int, folder: Path) -> Model:
        from serving.model import load

        return load(folder, self._options.runtime)

    def _open(self) -> None:
        from serving import grpc_server
        from serving.monitoring import Monitor
        from serving.predictor import Predictor
        from serving.request_log import RequestLog

        chosen, monitor, request_log = self._options, Monitor(), RequestLog()
        predictor = Predictor(
            self.manager, self._limiter, monitor, check_method_names=chosen.check_method_names
        )
        service = grpc_server.Service(
            predictor, self._reload_message, monitor, request_log, as_content=chosen.as_content
        )
        addresses = ([f"unix:{chosen.grpc_socket}"] if chosen.grpc_socket else []) + (
            [] if chosen.grpc_port is None else [f"0.0.0.0:{chosen.grpc_port}"]
        )
        settings = grpc_server.GrpcSettings(
            addresses=tuple(addresses),
            num_threads=chosen.grpc_max_threads * (1 + WAITING_PER_THREAD) + SPARE_THREADS,
            channel_arguments=chosen.grpc_channel_arguments,
            as_content=chosen.as_content,
        )
        self._grpc, self.grpc_port = grpc_server.build(settings, service)
        if chosen.rest_port is not None:
            self._rest = self._build_rest(predictor, monitor, request_log)
            self.rest_port = self._rest.port
        self._grpc.start()
        if self._rest:
            self._rest.start()
        log.info("serving grpc=%s rest=%s", addresses, self.rest_port)
        if chosen.port_file:
            _write_ports(chosen.port_file, self.grpc_port, self.rest_port)

    def _build_rest(self, predictor: Any, monitor: Any, request_log: Any) -> Any:
        from serving.rest_api import RestApi
        from serving.rest_server import Application, RestServer, RestSettings

        chosen = self._options
        settings = RestSettings(
            port=chosen.rest_port or 0,
            num_threads=chosen.rest_num_threads,
            num_waiting=chosen.rest_num_threads * WAITING_PER_THREAD,
            timeout_s=chosen.rest_timeout_ms / 1000,
            cors=chosen.rest_cors,
        )
        api = RestApi(predictor, monitor, request_log, timeout_ms=chosen.rest_timeout_ms)
        return RestServer(settings, Application(settings, api, bytes))

    def _reload_message(self, message: Any, timeout_s: float | None) -> None:
        self.reload(config.models_of(message), timeout_s)

    def _poll_config(self) -> None:
        assert self._options.config_file is not None
        while not self._stopping.wait(self._options.config_poll_s):
            try:
                self.reload(config.read_models(self._options.config_file))
            except ServingError as error:
                log.error("the old model config stays in force: %s", error)


def _configs(chosen: Options) -> list[ModelConfig]:
    if chosen.config_file is not None:
        return config.read_models(chosen.config_file)
    if not chosen.models:
        raise BadConfig(message="No model to serve: give --model_base_path or --model_config_file")
    return list(chosen.models)


def _mention(parsed: flags.Parsed) -> None:
    """Say what is unknown and what is without effect, on stderr."""
    for word in parsed.unknown:
        close = flags.nearest(word)
        hint = f" Did you mean --{close}?" if close else ""
        sys.stderr.write(f"unknown argument: {word}.{hint}\n")
    if parsed.unknown:
        sys.stderr.write(flags.usage())
    for flag in flags.flags():
        if not flag.effect and flag.name in parsed.given:
            sys.stderr.write(f"--{flag.name} is without effect in this server.\n")


def _version() -> str:
    from importlib.metadata import version

    return (
        f"pergola-model-server {version('pergola')}, speaks TensorFlow Serving 2.20\n"
        f"TensorFlow Library: {version('tensorflow')}\n"
    )


def _refuse(message: str) -> int:
    sys.stderr.write(message.rstrip("\n") + "\n")
    return 255


def _configure_process() -> None:
    """What a process must have before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _write_ports(path: Path, grpc_port: int | None, rest_port: int | None) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(json.dumps({"grpc": grpc_port, "rest": rest_port}))
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
