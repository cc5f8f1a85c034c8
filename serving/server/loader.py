"""Loads version folders: load, set up batching, warm up."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from pathlib import Path

from pergola.serving.server.config.errors import BadConfig, VersionDamaged, VersionNotTrusted
from pergola.serving.server.config.model_config import ModelConfig
from pergola.serving.server.core import batching, model, warmup
from pergola.serving.server.core.model import Model, RuntimeSettings
from pergola.serving.server.options import ServerOptions
from pergola.serving.server.telemetry.metrics import Monitor
from pergola.serving.wire import checksums, signature

log = logging.getLogger(__name__)


class Loader:
    """Loads version folders with a server's options. Raises BadConfig for its configuration files."""

    def __init__(self, options: ServerOptions, monitor: Monitor) -> None:
        self._options = options
        self._monitor = monitor
        self._shared: batching.Scheduler | None = None
        if options.batching:
            self._shared = batching.Scheduler(batching.read_settings(options.batching_file), monitor.batch)
        self._runtime: RuntimeSettings | None = None
        self._seen: dict[str, set[model.FeedsAndFetches]] = {}  # by model name, for its next version

    def load(self, config: ModelConfig, version: int, folder: Path) -> Model:
        """A model that is ready for requests. Raises ServingError."""
        with _SHORT_TURNS:
            return self._loaded(config, version, folder)

    def _loaded(self, config: ModelConfig, version: int, folder: Path) -> Model:
        _verify(folder, self._options)
        loaded = self._load(config.name, folder)
        try:
            served = self._batched(config.name, loaded, folder)
            if self._options.warmup:
                count = warmup.warm_up(
                    served, folder, self._options.warmup_iterations, self._monitor.warmed_up
                )
                if count:
                    log.info("warmed up model=%s version=%d records=%d", config.name, version, count)
        except Exception:
            loaded.close()
            raise
        return served

    def close(self) -> None:
        """End the batching threads."""
        if self._shared is not None:
            self._shared.close()

    def _load(self, name: str, folder: Path) -> Model:
        if self._runtime is None:
            self._runtime = _with_session_config(self._options)
        return model.load(folder, self._runtime, self._seen.setdefault(name, set()))

    def _batched(self, name: str, loaded: Model, folder: Path) -> Model:
        if self._shared is None:
            return loaded
        own = folder / batching.PER_MODEL_FILE
        if not self._options.batching_per_model:
            return batching.BatchedModel(name, loaded, self._shared.settings, self._shared)
        if not own.is_file():  # as in the stock server: no file, no batching
            return loaded
        shared = self._shared.settings  # all models share its threads
        settings = dataclasses.replace(
            batching.read_settings(own), num_threads=shared.num_threads, pool_name=shared.pool_name
        )
        return batching.BatchedModel(name, loaded, settings, self._shared)


def _verify(folder: Path, options: ServerOptions) -> None:
    try:
        if options.verify_checksums:
            checksums.verify(folder)
        if options.public_key is not None:
            signature.verify(folder, options.public_key)
    except signature.NotTrusted as error:
        raise VersionNotTrusted(message=str(error)) from None
    except checksums.DamagedVersion as error:
        raise VersionDamaged(message=str(error)) from None


class _ShortTurns:
    """Switch threads every millisecond instead of every five while a model loads, which is Python code.

    Not permanently: waiting threads wake up that often, which costs a busy server CPU.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads = 0
        self._usual_s = 0.005

    def __enter__(self) -> None:
        with self._lock:
            self._loads += 1
            if self._loads == 1:
                self._usual_s = sys.getswitchinterval()
                sys.setswitchinterval(0.001)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._loads -= 1
            if not self._loads:
                sys.setswitchinterval(self._usual_s)


_SHORT_TURNS = _ShortTurns()


def _with_session_config(options: ServerOptions) -> RuntimeSettings:
    """The runtime settings with the file of --tensorflow_session_config_file read in."""
    if options.session_config_file is None:
        return options.runtime
    from google.protobuf import text_format
    from tensorflow.core.protobuf import config_pb2

    path = options.session_config_file
    try:
        message = text_format.Parse(path.read_text(encoding="utf-8"), config_pb2.ConfigProto())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise BadConfig(message=f"Invalid protobuf file: '{path}' is not a ConfigProto: {error}") from error
    return dataclasses.replace(options.runtime, session_config=message.SerializeToString())
