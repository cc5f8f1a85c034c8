"""The status of a sync: health, readiness, a status page and Prometheus metrics."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pergola.components.errors import InputError

_KINDS = ("checksum", "missing", "store", "disk", "load", "other")


@dataclass(frozen=True)
class Rejection:
    """Why a version is not served."""

    kind: str  # one of _KINDS
    message: str
    attempts: int
    retry_at: float  # on the sync's clock


@dataclass
class Counters:
    """Event counts since the start."""

    failures: Counter[str] = field(default_factory=Counter)  # by kind
    fetched: int = 0  # versions
    fetch_seconds: float = 0.0
    last_success: float = 0.0  # Unix time of the last round in which the store answered


@dataclass(frozen=True)
class ModelStatus:
    """One model: the labels in the release record and in models.config."""

    wanted: Mapping[str, int]  # label -> version
    labels: Mapping[str, int]
    versions: tuple[int, ...]
    fetching: tuple[int, ...]
    rejected: Mapping[int, Rejection]


@dataclass(frozen=True)
class SyncStatus:
    """The status of all models at one moment."""

    store: str
    track: str
    store_error: str  # empty when the last round reached the store
    asked: tuple[str, ...]  # models configured by name
    models: Mapping[str, ModelStatus]
    counters: Counters
    age_s: float  # since the last round began
    is_alive: bool

    @property
    def reason(self) -> str:
        """Why sync is not ready; empty if every model has a version to serve."""
        behind = f": {self.store_error}" if self.store_error else ""
        waiting = [
            name for name, m in self.models.items() if not m.versions and (m.wanted or name in self.asked)
        ]
        if waiting:
            why = behind or next(
                (f": {r.message}" for n in waiting for r in self.models[n].rejected.values()), ""
            )
            return f"no version yet of {', '.join(waiting)}{why}"
        if not any(model.versions for model in self.models.values()):
            return f"{self.store} has no released version{behind or ': pergola release stable N'}"
        return ""

    def to_json(self) -> str:
        """The status page."""
        models = {name: asdict(model) for name, model in self.models.items()}
        for model in models.values():
            for rejection in model["rejected"].values():
                del rejection["retry_at"]
        data = {
            "store": self.store, "track": self.track, "store_error": self.store_error,
            "ready": not self.reason, "reason": self.reason, "models": models,
        }  # fmt: skip
        return json.dumps(data, indent=1) + "\n"

    def to_prometheus(self) -> str:
        """The metrics page, text format 0.0.4."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        counters, models = self.counters, self.models.items()
        yield from _metric("store_up", "gauge", "Whether the store answered.", {(): not self.store_error})
        yield from _metric("ready", "gauge", "Whether every model has a version.", {(): not self.reason})
        yield from _metric(
            "last_success_timestamp_seconds",
            "gauge",
            "When the store last answered.",
            {(): counters.last_success},
        )
        yield from _metric("fetches_total", "counter", "Versions fetched.", {(): counters.fetched})
        yield from _metric(
            "fetch_seconds_total", "counter", "Seconds spent fetching.", {(): counters.fetch_seconds}
        )
        failures = {(("kind", kind),): counters.failures[kind] for kind in _KINDS}
        yield from _metric("failures_total", "counter", "Failures by kind.", failures)
        served = {
            (("model", name), ("label", label)): v for name, m in models for label, v in m.labels.items()
        }
        yield from _metric("version", "gauge", "Version of a label in models.config.", served)
        wanted = {
            (("model", name), ("label", label)): v for name, m in models for label, v in m.wanted.items()
        }
        yield from _metric("wanted_version", "gauge", "Version of a label in the release record.", wanted)
        rejected = {
            (("model", name), ("version", str(version)), ("kind", rejection.kind)): 1
            for name, m in models
            for version, rejection in m.rejected.items()
        }
        yield from _metric("rejected", "gauge", "1 for a released version that is not served.", rejected)


class StatusServer:
    """Answers /healthz, /readyz, /status and /metrics while it is open."""

    def __init__(self, status: Callable[[], SyncStatus], host: str = "", port: int = 0) -> None:
        try:
            self._server = _Server((host, port), _handler(status))
        except OSError as error:
            raise InputError(
                f"Port {port} cannot be used: {error.strerror}. Choose another with --port."
            ) from None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> StatusServer:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="status", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _handler(status: Callable[[], SyncStatus]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            now = status()
            if self.path == "/healthz":
                self._answer(now.is_alive, "ok\n" if now.is_alive else f"no round for {now.age_s:.0f} s\n")
            elif self.path == "/readyz":
                self._answer(not now.reason, f"{now.reason or 'ok'}\n")
            elif self.path == "/status":
                self._answer(True, now.to_json(), "application/json")
            elif self.path == "/metrics":
                self._answer(True, now.to_prometheus(), "text/plain; version=0.0.4; charset=utf-8")
            else:
                self.send_error(HTTPStatus.NOT_FOUND, "Known: /healthz /readyz /status /metrics")

        def log_message(self, format: str, *arguments: Any) -> None:
            """Probes are not logged."""

        def _answer(self, ok: bool, text: str, kind: str = "text/plain; charset=utf-8") -> None:
            body = text.encode()
            self.send_response(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _metric(name: str, kind: str, help: str, samples: Mapping[Any, float]) -> Iterator[str]:
    """One metric.  samples: pairs of label and text -> value; () -> value for a metric without labels."""
    yield f"# HELP pergola_sync_{name} {help}"
    yield f"# TYPE pergola_sync_{name} {kind}"
    for labels, value in samples.items():
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"pergola_sync_{name}{f'{{{inside}}}' if inside else ''} {float(value):.17g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
