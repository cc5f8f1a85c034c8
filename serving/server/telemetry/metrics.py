"""What a server counts, under the stock server's names, and the page that Prometheus reads.

Names and labels are those of TensorFlow Serving with "/" as ":"; latencies are microseconds. The
`pergola_` metrics carry a version label besides, which the stock server has not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pergola.serving.server.config import text_protos
from pergola.serving.server.config.errors import Code, code_of

DEFAULT_PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain"

_PREFIX = ":tensorflow:serving:"
_LATENCIES = tuple(10 * 1.8**i for i in range(33))
_LIMIT = re.compile(rb'le="([\d.e+]+)"')  # which the stock server prints with six digits
_SIZES = tuple(float(2**i) for i in range(15))


@dataclass(frozen=True)
class MonitoringSettings:
    """Where the page is; None for no page."""

    path: str | None = None


def read_settings(file: Path) -> MonitoringSettings:
    """From a MonitoringConfig text proto. Raises BadConfig."""
    config = text_protos.read(file, "MonitoringConfig").prometheus_config
    return MonitoringSettings((config.path or DEFAULT_PATH) if config.enable else None)


class RequestOutcome:
    """One request while it is answered, for a `with`; set `code` when it fails."""

    __slots__ = ("_api", "_entrypoint", "_model", "_monitor", "_started", "code", "version")

    def __init__(self, monitor: Monitor, model: str, api: str, entrypoint: str) -> None:
        self._monitor, self._model, self._api, self._entrypoint = monitor, model, api, entrypoint
        self.code = Code.OK
        self.version: int | None = None

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        code = self.code if error is None else code_of(error)
        seconds = time.perf_counter() - self._started
        self._monitor.answered(self._model, self._api, self._entrypoint, code, seconds)


class Monitor:
    """All counters of one server. Methods may be called from any thread."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # the stock server has no such series
        self._registry = CollectorRegistry()
        self._plain_counters: list[str] = []
        self._children: dict[tuple[Any, ...], Any] = {}
        self._requests = self._counter(
            "request_count", "The total number of requests.", "model_name", "status"
        )
        self._latency = self._histogram(
            "request_latency", "Wall time of a request in microseconds.", _LATENCIES,
            "model_name", "API", "entrypoint",
        )  # fmt: skip
        self._runtime = self._histogram(
            "runtime_latency", "Wall time in TensorFlow in microseconds.", _LATENCIES,
            "model_name", "API", "runtime",
        )  # fmt: skip
        self._examples = self._histogram(
            "request_example_counts", "The number of tensorflow.Examples per request.", _SIZES, "model"
        )
        self._example_total = Counter(
            f"{_PREFIX}request_example_count",
            "The total number of tensorflow.Examples.",
            ["model"],
            registry=self._registry,
        )
        self._logged = self._counter("request_log_count", "Requests logged.", "model_name", "status_code")
        self._warmup = self._histogram(
            "model_warmup_latency", "Wall time of warming up in microseconds.", _LATENCIES,
            "model_path", "status",
        )  # fmt: skip
        self._warmup_records = self._counter(
            "model_warmup_records_read", "Warm-up records read.", "model_path"
        )
        self._queuing = self._histogram(
            "batching_session:queuing_latency", "Time in the batching queue in microseconds.", _LATENCIES,
            "thread_pool_name",
        )  # fmt: skip
        self._batches = self._counter(
            "batching_session:wrapped_run_count", "Batches run.", "thread_pool_name"
        )
        self._batch_sizes = Histogram(
            "pergola_batch_size", "Rows in a batch, padding left out.", ["model_name"], buckets=_SIZES,
            registry=self._registry,
        )  # fmt: skip
        self._version_latency = Histogram(
            "pergola_model_run_microseconds", "Wall time in TensorFlow.", ["model_name", "version"],
            buckets=_LATENCIES, registry=self._registry,
        )  # fmt: skip
        self._loaded = Gauge(
            "pergola_model_version_state", "1 for the state that a version is in.",
            ["model_name", "version", "state"], registry=self._registry,
        )  # fmt: skip
        self._dropped = Counter(
            "pergola_request_log_dropped", "Sampled requests that the log had no room for.", ["model_name"],
            registry=self._registry,
        )  # fmt: skip

    def request(self, model: str, api: str, entrypoint: str) -> RequestOutcome:
        """Count a request: `with monitor.request("m", "Predict", "GRPC") as outcome:`."""
        return RequestOutcome(self, model, api, entrypoint)

    def answered(self, model: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """A request was answered. Only known models get a label of their own."""
        known = model if code is not Code.NOT_FOUND else ""
        self._child(self._requests, known, code.name).inc()
        if code is Code.OK:
            self._child(self._latency, known, api, entrypoint).observe(seconds * 1e6)

    def ran(self, model: str, version: int, api: str, seconds: float) -> None:
        """A model ran."""
        micros = seconds * 1e6
        self._child(self._runtime, model, api, "TF1").observe(micros)
        self._child(self._version_latency, model, str(version)).observe(micros)

    def examples(self, model: str, count: int) -> None:
        """A request brought so many examples."""
        self._child(self._examples, model).observe(count)
        self._child(self._example_total, model).inc(count)

    def logged(self, model: str, code: Code, count: int = 1) -> None:
        """Requests went into the request log, or should have."""
        self._child(self._logged, model, code.name).inc(count)

    def dropped(self, model: str) -> None:
        """The request log was full."""
        self._child(self._dropped, model).inc()

    def warmed_up(self, path: str, code: Code, records: int, seconds: float) -> None:
        """A version was warmed up, or failed to."""
        self._child(self._warmup, path, code.name).observe(seconds * 1e6)
        self._child(self._warmup_records, path).inc(records)

    def batch(self, model: str, pool: str, rows: int, waited: list[float]) -> None:
        """A batch ran, of tasks that had waited so many seconds."""
        self._child(self._batches, pool).inc()
        self._child(self._batch_sizes, model).observe(rows)
        queuing = self._child(self._queuing, pool)
        for seconds in waited:
            queuing.observe(seconds * 1e6)

    def page(self, states: Callable[[], list[tuple[str, int, str]]] = list) -> bytes:
        """The page in Prometheus' text format. states: (model, version, state) of every version now."""
        self._loaded.clear()
        for model, version, state in states():
            self._loaded.labels(model, str(version), state).set(1)
        text = generate_latest(self._registry)
        for name in self._plain_counters:
            text = text.replace(f"# TYPE {name} gauge".encode(), f"# TYPE {name} counter".encode())
        return _LIMIT.sub(lambda found: b'le="%s"' % f"{float(found[1]):g}".encode(), text)

    def _counter(self, name: str, text: str, *labels: str) -> Gauge:
        """A counter by its bare name: prometheus_client puts "_total" behind those of its class Counter."""
        self._plain_counters.append(_PREFIX + name)
        return Gauge(_PREFIX + name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, buckets=buckets, registry=self._registry)

    def _child(self, metric: Any, *labels: str) -> Any:
        """The series of a metric; kept here because looking it up there takes longer than counting."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child
