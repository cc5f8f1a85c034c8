"""pergola-model-server: a server that speaks TensorFlow Serving's protocol.

    pergola-model-server --model_base_path=/models/leaves --model_name=leaves --rest_api_port=8501

`main` is the command, `run` serves until SIGTERM, and `Server` embeds it in another process:

    models = (ModelConfig("leaves", Path("/models/leaves")),)
    with Server(ServerOptions(models=models, grpc_port=0)) as server:
        print(server.grpc_port)
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self

from pergola.serving.server import flags, options, sockets
from pergola.serving.server.auth import read_tokens
from pergola.serving.server.config import model_config
from pergola.serving.server.config.errors import BadConfig, ServingError
from pergola.serving.server.config.model_config import ModelConfig
from pergola.serving.server.core.limiter import Limiter
from pergola.serving.server.core.manager import Manager
from pergola.serving.server.core.predictor import Predictor
from pergola.serving.server.grpc.health import Health
from pergola.serving.server.grpc.profiler import Profiler
from pergola.serving.server.loader import Loader
from pergola.serving.server.options import ServerOptions
from pergola.serving.server.telemetry.request_log import RequestLog

log = logging.getLogger(__name__)

WAITING_PER_THREAD = 16  # requests that may wait, for each that may run
SPARE_THREADS = 4  # for status, metadata and health when the others are busy


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns the exit status: 0, or 255 like the stock server when it cannot start."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-help", "-h"} & set(given):
        sys.stdout.write(flags.usage())
        return 0
    try:
        parsed = flags.parse(given)
        _mention(parsed)
        if parsed.values["version"]:
            sys.stdout.write(_version())
            return 0
        chosen = options.from_flags(parsed)
    except flags.FlagError as error:
        return _refuse(str(error))
    _configure_process()
    status = run(chosen)
    if arguments is None:
        _leave(status)
    return status


def run(chosen: ServerOptions) -> int:
    """Serve until SIGTERM or SIGINT; then finish what is in flight. Returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _n, _f: stop.set())
    try:
        server = Server(chosen)
    except (ServingError, OSError) as error:
        return _refuse(f"Failed to start server. Error: {error}")
    try:
        _import_and_freeze()
        server.start(stop.is_set)
        stop.wait()
    except (ServingError, OSError) as error:
        server.stop(0, unload=False)
        if stop.is_set():
            return 0
        return _refuse(f"Failed to start server. Error: {error}")
    log.info("stopping in_flight=%d grace_s=%g", server.manager.in_flight(), chosen.grace_s)
    server.stop(chosen.grace_s, unload=False)
    log.info("stopped")
    return 0


def _import_and_freeze() -> None:
    """Import TensorFlow, and exempt its permanent objects from garbage collection.

    Unloading a model needs a collection, and one over all of TensorFlow delayed every request by 0.17 s.
    """
    import gc

    import tensorflow  # noqa: F401
    from tensorflow.python.saved_model import loader_impl  # noqa: F401

    from pergola.serving.server.grpc import services  # noqa: F401

    gc.collect()
    gc.freeze()


class Server:
    """Models, a gRPC server and a REST server. `start` blocks until the models are loaded."""

    def __init__(self, chosen: ServerOptions) -> None:
        from pergola.serving.server.telemetry.metrics import Monitor, MonitoringSettings, read_settings

        self._options = chosen
        self._configs = _configs(chosen)
        self._pages = (
            read_settings(chosen.monitoring_file) if chosen.monitoring_file else MonitoringSettings()
        )
        self._credentials = _credentials(chosen)
        self._tokens = read_tokens(chosen.token_file)
        sockets.check_ports(
            chosen.bind_address, {"--port": chosen.grpc_port, "--rest_api_port": chosen.rest_port}
        )
        self.grpc_port: int | None = None
        self.rest_port: int | None = None
        self._stopping = threading.Event()
        self._stop_once = threading.Lock()
        self._grpc: Any = None
        self._rest: Any = None
        self._health: Any = None
        self._poller: threading.Thread | None = None
        self._monitor = Monitor()
        self._request_log = RequestLog(self._monitor, chosen.runtime.tags)
        self._loader = Loader(chosen, self._monitor)
        self.manager = Manager(self._loader.load, chosen.manager)

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> Self:
        """Load the models, then open the ports. Raises ServingError or OSError."""
        self.reload(self._configs, cancelled=cancelled)
        self._open()
        if self._options.config_file and self._options.config_poll_s > 0:
            self._poller = threading.Thread(target=self._poll_config, name="config", daemon=True)
            self._poller.start()
        return self

    def reload(
        self,
        configs: list[ModelConfig],
        timeout_s: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Serve exactly these models; waits until new ones are loaded. Raises ServingError."""
        self.manager.apply(
            configs,
            timeout_s,
            lambda: cancelled() or self._stopping.is_set(),
            lambda: self._request_log.update(configs),
        )

    def stop(self, grace_s: float = 5.0, *, unload: bool = True) -> None:
        """Accept no more requests, finish those in flight for at most `grace_s`, unload everything.

        A second call does nothing.
        """
        with self._stop_once:
            if self._stopping.is_set():
                return
            self._stopping.set()
        if self._health:
            self._health.drain()
        stopping = self._grpc.stop(grace_s) if self._grpc else None
        if self._rest:
            self._rest.stop(grace_s)
        if stopping:
            stopping.wait(grace_s + 1)
        self._request_log.close()
        if unload:
            self.manager.close()
            self._loader.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _open(self) -> None:
        """Bind both ports, then serve on both."""
        from pergola.serving.server.grpc import services

        chosen = self._options
        predictor = self._predictor()
        service = services.Service(
            predictor, self._reload_message, self._monitor, self._request_log, as_content=chosen.as_content
        )
        handlers = [*services.handlers(service, self._allows, reloads=chosen.reloads)]
        if chosen.profiler:
            handlers.append(Profiler().handler(self._allows))
        if chosen.health:
            self._health = Health()
            handlers.append(self._health.handler())
        settings = services.GrpcSettings(
            addresses=sockets.grpc_addresses(chosen.bind_address, chosen.grpc_port, chosen.grpc_socket),
            num_threads=chosen.grpc_max_threads * (1 + WAITING_PER_THREAD) + SPARE_THREADS,
            channel_arguments=chosen.grpc_channel_arguments,
        )
        self._grpc, self.grpc_port = services.build(settings, handlers, self._credentials)
        if chosen.rest_port is not None:
            self._rest = self._build_rest(predictor)
            self.rest_port = self._rest.port
            self._rest.start()
        self._grpc.start()
        log.info(
            "serving address=%s grpc_port=%s grpc_socket=%s rest_port=%s",
            chosen.bind_address,
            self.grpc_port,
            chosen.grpc_socket,
            self.rest_port,
        )
        if chosen.port_file:
            _write_ports(chosen.port_file, self.grpc_port, self.rest_port)

    def _predictor(self) -> Predictor:
        threads = self._options.grpc_max_threads
        waiting = threads * WAITING_PER_THREAD
        # Requests that wait for a batch are not in the model, so batching has places for all of them.
        limiter = Limiter(threads + waiting, 0) if self._options.batching else Limiter(threads, waiting)
        return Predictor(
            self.manager, limiter, self._monitor, check_method_names=self._options.check_method_names
        )

    def _build_rest(self, predictor: Predictor) -> Any:
        from pergola.serving.server.rest.api import RestApi
        from pergola.serving.server.rest.http import Application, RestServer, RestSettings

        chosen = self._options
        settings = RestSettings(
            host=chosen.bind_address,
            port=chosen.rest_port or 0,
            num_threads=chosen.rest_num_threads,
            num_waiting=chosen.rest_num_threads * WAITING_PER_THREAD,
            timeout_s=chosen.rest_timeout_ms / 1000,
            cors=chosen.rest_cors,
            metrics_path=self._pages.path,
        )
        api = RestApi(predictor, self._monitor, self._request_log, timeout_ms=chosen.rest_timeout_ms)
        return RestServer(settings, Application(settings, api, self._page, self._tokens))

    def _allows(self, context: Any) -> str:
        """Why a gRPC call is refused; "" if it is not."""
        return self._tokens.refusal(dict(context.invocation_metadata()).get("authorization"))

    def _page(self) -> bytes:
        return self._monitor.page(self.manager.overview)

    def _reload_message(self, message: Any, timeout_s: float | None) -> None:
        self.reload(model_config.requested(message, self._configs), timeout_s)

    def _poll_config(self) -> None:
        """Reread the config file periodically; an invalid one is logged and changes nothing.

        As in the stock server the file has the last word: it undoes what a reload by RPC has changed.
        """
        path, complaint = self._options.config_file, ""
        assert path is not None
        while not self._stopping.wait(self._options.config_poll_s):
            try:
                configs = model_config.read_models(path)
                if not self.manager.has(configs):
                    seen = path.read_bytes()
                    self.reload(configs, cancelled=partial(_differs, path, seen))
                    self._configs = configs
                    log.info("model config reloaded file=%s models=%d", path, len(configs))
                complaint = ""
            except (ServingError, OSError) as error:
                if str(error) != complaint:
                    log.error("model config not taken over; what was loaded stays. file=%s: %s", path, error)
                complaint = str(error)


def _credentials(chosen: ServerOptions) -> Any:
    if chosen.ssl_file is None:
        return None
    from pergola.serving.server import tls

    return tls.credentials(chosen.ssl_file)


def _differs(path: Path, text: bytes) -> bool:
    """Whether the content of a file has changed."""
    try:
        return path.read_bytes() != text
    except OSError:
        return True


def _configs(chosen: ServerOptions) -> list[ModelConfig]:
    if chosen.config_file is not None:
        return model_config.read_models(chosen.config_file)
    if not chosen.models:
        raise BadConfig(message="No model to serve: give --model_base_path or --model_config_file")
    return list(chosen.models)


def _mention(parsed: flags.Parsed) -> None:
    """Report unknown flags and those without effect on stderr."""
    for word in parsed.unknown:
        close = flags.nearest(word)
        hint = f" Did you mean --{close}?" if close else ""
        sys.stderr.write(f"unknown argument: {word}.{hint}\n")
    if parsed.unknown:
        sys.stderr.write(flags.usage())
    for flag in flags.flags():
        if not flag.effect and flag.name in parsed.given:
            sys.stderr.write(f"--{flag.name} has no effect in this server.\n")


def _version() -> str:
    from importlib.metadata import version

    return (
        f"pergola-model-server {version('pergola-ml')}, speaks TensorFlow Serving 2.20\n"
        f"TensorFlow Library: {version('tensorflow')}\n"
    )


def _refuse(message: str) -> int:
    sys.stderr.write(message.rstrip("\n") + "\n")
    return 255


def _configure_process() -> None:
    """Set up what must be in place before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def _leave(status: int) -> NoReturn:
    """Exit at once: TensorFlow's own shutdown takes a second and has nothing left to save."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _write_ports(path: Path, grpc_port: int | None, rest_port: int | None) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(json.dumps({"grpc": grpc_port, "rest": rest_port}))
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
