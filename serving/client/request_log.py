"""A request log written by the client in the server's format, for servers that keep none.

    with ClientLog("logs/leaves", share=0.1) as log, Client("server:8500", model="leaves", log=log) as client:
        client.classify_images(["leaf.jpg"])

Files are `<prefix>-<start>-<pid>-<n>.tfrecord`, which `pergola drift` and `pergola feedback` read (`--log`).
Logging never fails a request: what cannot be written is counted, and reported once. Needs google-crc32c.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pergola.serving.client.errors import InvalidInput
from pergola.serving.wire import prediction_log
from pergola.serving.wire.private_files import open_private
from pergola.serving.wire.protos import predict_pb2

_log = logging.getLogger(__name__)


class ClientLog:
    """A sampled log of Predict calls. Safe to use from many threads and by several clients.

    share: of the requests, 0 to 1.  max_file_bytes: a file is closed beyond it.  max_files: of this process;
    the oldest is deleted when there are more.
    """

    def __init__(
        self,
        prefix: str | Path,
        *,
        share: float = 1.0,
        max_file_bytes: int = 64 << 20,
        max_files: int = 16,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= share <= 1:
            raise InvalidInput(f"share is {share}, expected a share of the requests from 0 to 1.")
        try:
            prediction_log.frame(b"")
        except ImportError:
            raise InvalidInput("A client's log needs google-crc32c: pip install google-crc32c.") from None
        self._prefix, self._share, self._draw, self._clock = str(prefix), share, draw, clock
        self._max_file_bytes, self._max_files = max_file_bytes, max_files
        self._lock = threading.Lock()
        self._started = time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock()))
        self._number = self._written = 0
        self._file: BinaryIO | None = None
        self._paths: deque[Path] = deque()
        self.failed = 0  # requests that could not be written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, request: predict_pb2.PredictRequest, response: predict_pb2.PredictResponse) -> None:
        """Log a request and its response if it is sampled. Never raises."""
        if self._share < 1 and self._draw() >= self._share:
            return
        record = prediction_log.frame(self._message(request, response))
        try:
            with self._lock:
                self._write(record)
        except OSError as error:
            self.failed += 1
            if self.failed == 1:
                _log.warning("request log prefix=%s: %s", self._prefix, error)

    def close(self) -> None:
        """Close the file. A later request opens another."""
        with self._lock:
            self._close()

    def _message(self, request: predict_pb2.PredictRequest, response: predict_pb2.PredictResponse) -> bytes:
        entry = prediction_log.message()()
        spec = entry.log_metadata.model_spec
        spec.CopyFrom(response.model_spec)
        spec.name, spec.signature_name = request.model_spec.name, request.model_spec.signature_name
        entry.log_metadata.timestamp_secs = int(self._clock())
        entry.predict_log.request.CopyFrom(request)
        entry.predict_log.response.CopyFrom(response)
        return bytes(entry.SerializeToString())

    def _write(self, record: bytes) -> None:
        if self._file is not None and self._written + len(record) > self._max_file_bytes:
            self._close()
        if self._file is None:
            path = Path(f"{self._prefix}-{self._started}-{os.getpid()}-{self._number:05d}.tfrecord")
            self._file, self._written, self._number = open_private(path), 0, self._number + 1
            self._paths.append(path)
            while len(self._paths) > self._max_files:
                self._paths.popleft().unlink(missing_ok=True)
        self._file.write(record)
        self._file.flush()
        self._written += len(record)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
