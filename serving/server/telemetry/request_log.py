"""A sampled log of requests and answers: TFRecord files of PredictionLog, each with the model's version.

It never holds a request up: a request that is sampled goes into a bounded queue, and when that is full
it is dropped and counted. A thread writes. Files are `<prefix>-<start>-<pid>-<n>.tfrecord`, closed at a
size; a process that dies may leave its last record cut off.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pergola.serving.server.config.errors import Code
from pergola.serving.server.config.model_config import ModelConfig, RequestLogConfig
from pergola.serving.server.telemetry.metrics import Monitor
from pergola.serving.wire.private_files import open_private

log = logging.getLogger(__name__)

PREDICT, CLASSIFY, REGRESS = "predict_log", "classify_log", "regress_log"
MULTI_INFERENCE = "multi_inference_log"


@dataclass(frozen=True)
class RequestLogSettings:
    """Bounds of the log."""

    max_queued: int = 1000  # records
    max_queued_bytes: int = 64 << 20
    max_file_bytes: int = 64 << 20
    max_file_age_s: float = 3600.0  # then it is closed, so that it can be deleted
    flush_s: float = 1.0


class _Record(NamedTuple):
    model: str
    config: RequestLogConfig
    version: int
    signature: str
    kind: str
    request: Any
    response: Any
    num_bytes: int
    at_s: int


class RequestLog:
    """Logs the requests that `update` selects. Thread-safe."""

    def __init__(
        self,
        monitor: Monitor,
        tags: tuple[str, ...] = ("serve",),
        settings: RequestLogSettings | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._monitor = monitor
        self._tags = tags
        self._settings = settings or RequestLogSettings()
        self._draw = draw
        self._clock = clock
        self._configs: Mapping[str, RequestLogConfig] = {}
        self._queue: queue.Queue[_Record | None] = queue.Queue(self._settings.max_queued)
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def update(self, models: list[ModelConfig]) -> None:
        """Log the requests of these models with the sampling of their configurations."""
        self._configs = {
            m.name: m.request_log for m in models if m.request_log and m.request_log.sampling_rate
        }
        with self._lock:
            if self._configs and self._thread is None:
                self._thread = threading.Thread(target=self._write, name="request-log", daemon=True)
                self._thread.start()

    def should_log(self, model: str) -> bool:
        """Whether to log the request that was just answered. Samples anew with every call."""
        config = self._configs.get(model)
        return config is not None and (config.sampling_rate >= 1 or self._draw() < config.sampling_rate)

    def add(self, model: str, version: int, signature: str, kind: str, request: Any, response: Any) -> None:
        """Queue a request and its response, which must not change afterwards."""
        config = self._configs.get(model)
        if config is None:
            return
        size = request.ByteSize() + response.ByteSize()
        record = _Record(model, config, version, signature, kind, request, response, size, int(self._clock()))
        with self._lock:
            fits = self._queued_bytes + size <= self._settings.max_queued_bytes
            self._queued_bytes += size if fits else 0
        try:
            if not fits:
                raise queue.Full
            self._queue.put_nowait(record)
        except queue.Full:
            self._monitor.dropped(model)
            if fits:
                self._release(size)

    def close(self) -> None:
        """Write the queued records."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _release(self, size: int) -> None:
        with self._lock:
            self._queued_bytes -= size

    def _write(self) -> None:
        files: dict[str, _File] = {}
        flushed = self._clock()
        while True:
            try:
                record = self._queue.get(timeout=self._settings.flush_s)
                if record is None:
                    break
                self._write_one(record, files)
                self._release(record.num_bytes)
            except queue.Empty:
                pass
            if self._clock() - flushed >= self._settings.flush_s:
                flushed = self._clock()
                for file in files.values():
                    file.flush(flushed - self._settings.max_file_age_s)
        for file in files.values():
            file.close()

    def _write_one(self, record: _Record, files: dict[str, _File]) -> None:
        try:
            file = files.setdefault(record.config.filename_prefix, _File(record.config.filename_prefix))
            file.write(self._message(record), self._settings.max_file_bytes, self._clock())
        except Exception as error:  # a full disk must not stop the log
            files.pop(record.config.filename_prefix, None)
            self._monitor.logged(record.model, Code.INTERNAL)
            log.error("request log prefix=%s: %s", record.config.filename_prefix, error)
        else:
            self._monitor.logged(record.model, Code.OK)

    def _message(self, record: _Record) -> bytes:
        from tensorflow_serving.apis import prediction_log_pb2

        entry = prediction_log_pb2.PredictionLog()
        metadata = entry.log_metadata
        metadata.model_spec.name, metadata.model_spec.signature_name = record.model, record.signature
        metadata.model_spec.version.value = record.version
        metadata.sampling_config.sampling_rate = record.config.sampling_rate
        metadata.saved_model_tags.extend(self._tags)
        metadata.timestamp_secs = record.at_s
        getattr(entry, record.kind).request.CopyFrom(record.request)
        getattr(entry, record.kind).response.CopyFrom(record.response)
        return entry.SerializeToString()


@dataclass
class _File:
    """The current file, rotated by size."""

    prefix: str
    number: int = 0
    written: int = 0
    opened_s: float = 0.0
    started: str = field(default_factory=lambda: time.strftime("%Y%m%d-%H%M%S"))
    writer: Any = None

    def write(self, data: bytes, limit: int, now_s: float) -> None:
        import tensorflow as tf

        if self.writer is not None and self.written + len(data) > limit:
            self.close()
        if self.writer is None:
            path = f"{self.prefix}-{self.started}-{os.getpid()}-{self.number:05d}.tfrecord"
            open_private(Path(path)).close()
            self.writer, self.written, self.number = tf.io.TFRecordWriter(path), 0, self.number + 1
            self.opened_s = now_s
        self.writer.write(data)
        self.written += len(data)

    def flush(self, oldest_s: float) -> None:
        """Bring everything to the disk; close a file that was opened before `oldest_s`."""
        if self.writer is not None:
            self.writer.flush()
            if self.opened_s < oldest_s:
                self.close()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None
