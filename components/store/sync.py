"""Copy the released versions of a store to the folder that a TensorFlow Serving beside it loads from.

The server needs no credentials, does not know the bucket and never sees an incomplete model. If the store is
unavailable, a checksum does not match or the server cannot load a version, the served versions stay; status,
metrics and log report the failure.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.errors import PergolaError
from pergola.components.store import model_store, models_config
from pergola.components.store.model_store import Store
from pergola.components.store.models_config import ConfigEntry
from pergola.components.store.release_record import STABLE, Release
from pergola.components.store.served_folder import ServedFolder
from pergola.components.store.store_errors import ChecksumError, MissingVersion, SignatureError, StoreError
from pergola.components.store.sync_status import Counters, ModelStatus, Rejection, StatusServer, SyncStatus

STATUS_PORT = 8502
_LONGEST_WAIT_S = 300.0
_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (ChecksumError, "checksum"),
    (SignatureError, "signature"),
    (MissingVersion, "missing"),
    (StoreError, "store"),
    (OSError, "disk"),
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SyncSettings:
    """How a folder follows a store."""

    models: tuple[str, ...] = records.setting((), "Models to follow; none means every model in the store.")
    track: str = records.setting(STABLE, "Which version to serve.", choices=models_config.TRACKS)
    interval_s: float = records.setting(5.0, "Seconds between two reads of the store.", low=0.05, high=3600)
    grace_s: float = records.setting(60.0, "Seconds that an unused version stays on disk.", low=0, high=86400)
    server: str = records.setting(
        "", "The server's REST address, queried before a label moves; empty: do not query."
    )
    public_key: str = records.setting("", "Public key of whom must have signed a version; empty: anybody.")


class Sync:
    """Follows one store. `round` reads it once; fetches run in the background, so a rollback never waits."""

    def __init__(
        self, source: Store, folder: Path, settings: SyncSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._settings, self._clock = source, settings, clock
        self._folder = ServedFolder(folder, Path(key) if (key := settings.public_key) else None)
        self._configs = self._folder.restore()
        self._releases: dict[str, Release] = {}
        self._rejected: dict[tuple[str, int], Rejection] = {}
        self._fetches: dict[tuple[str, int], Future[None]] = {}
        self._unused_since: dict[tuple[str, int], float] = {}
        self._store_error = "the store was not read yet"
        self._counters = Counters()
        self._closed = False
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="fetch")
        self._beat = clock()
        if self._configs:  # a server must find its models while the store is unavailable
            self._folder.write(self._configs)

    def __enter__(self) -> Sync:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._pool.shutdown(cancel_futures=True)

    def round(self) -> None:
        """Read the store once, apply what is here, fetch what is missing."""
        self._beat = self._clock()
        self._store_error = self._follow_all()
        if self._store_error:
            self._count("store", self._store_error)
        else:
            self._counters.last_success = time.time()
        if self._releases or self._configs:
            self._folder.write(self._configs)
        self._remove_unused()

    def settle(self, timeout_s: float = 60.0) -> None:
        """Run rounds until no fetch is in progress."""
        deadline = time.monotonic() + timeout_s
        self.round()
        while self._fetches and time.monotonic() < deadline:
            for future in list(self._fetches.values()):
                with contextlib.suppress(Exception):
                    future.result(timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))
            self.round()

    def run(self, stop: threading.Event) -> None:
        """Run rounds until `stop` is set."""
        while not stop.is_set():
            try:
                self.round()
            except OSError as error:  # the local disk: full, read-only
                self._count("disk", str(error))
            stop.wait(self._settings.interval_s)

    def status(self) -> SyncStatus:
        """What is served, and which versions were rejected and why."""
        names = sorted({*self._settings.models, *self._releases, *self._configs})
        return SyncStatus(
            store=self._store.uri,
            track=self._settings.track,
            store_error=self._store_error,
            asked=self._settings.models,
            models={name: self._status_of(name) for name in names},
            counters=self._counters,
            age_s=self._clock() - self._beat,
            is_alive=self._clock() - self._beat < max(60.0, 10 * self._settings.interval_s),
        )

    def _follow_all(self) -> str:
        """Follow every model and return the last error: store unavailable, release record invalid."""
        error = ""
        try:
            models = list(self._settings.models) or sorted({*self._store.models(), *self._configs})
        except PergolaError as failure:
            return str(failure)
        for model in models:
            try:
                self._follow(model, self._store.release(model))
            except PergolaError as failure:
                error = str(failure)
        return error

    def _follow(self, model: str, release: Release) -> None:
        """Take the next step of one model towards its release record."""
        if not release.generation and self._configs.get(model, ConfigEntry()).versions:
            raise StoreError(
                f"{self._store.uri} has lost the release record of '{model}': what it said last still holds. "
                "Restore release.json."
            )
        if self._releases.get(model) != release:
            self._releases[model] = release
            self._clear_rejections(model)
            _log.info("model=%s stable=%s canary=%s", model, release.stable, release.canary)
        goal = models_config.wanted(release, self._settings.track)
        for version in goal.versions:
            self._fetch_if_missing(model, version)
        current = self._configs.get(model, ConfigEntry())
        # Queried before usable versions are chosen, since the server may report that it cannot load one.
        loaded = {v for v in goal.versions if v not in current.labels.values() and self._is_loaded(model, v)}
        goal = self._reachable(model, goal, current)
        current_or_loaded = {*current.labels.values(), *loaded}
        self._configs[model] = models_config.step(current, goal, lambda v: v in current_or_loaded)

    def _reachable(self, model: str, goal: ConfigEntry, current: ConfigEntry) -> ConfigEntry:
        """The goal restricted to versions that are here; while one is missing, labels stay where they are."""
        labels = {label: v for label, v in goal.labels.items() if self._is_usable(model, v)}
        if len(labels) < len(goal.labels):
            labels = {**current.labels, **labels}
        return ConfigEntry(tuple(sorted(set(labels.values()))), labels)

    def _is_usable(self, model: str, version: int) -> bool:
        return self._folder.has(model, version) and (model, version) not in self._rejected

    def _fetch_if_missing(self, model: str, version: int) -> None:
        key = (model, version)
        if key in self._fetches:
            if self._fetches[key].done():
                error = self._fetches.pop(key).exception()
                if error is None:
                    self._rejected.pop(key, None)
                else:
                    self._reject(
                        key, next((k for cls, k in _KINDS if isinstance(error, cls)), "other"), error
                    )
            return
        waits = key in self._rejected and self._clock() < self._rejected[key].retry_at
        if not self._folder.has(model, version) and not waits:
            self._fetches[key] = self._pool.submit(self._fetch, model, version)

    def _fetch(self, model: str, version: int) -> None:
        def stop_if_withdrawn(name: str) -> None:
            if self._closed or not self._is_wanted(model, version):
                raise MissingVersion(f"Version {version} of '{model}' was withdrawn while it was fetched.")

        start = time.perf_counter()
        path = self._folder.path(model, version)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._store.fetch(model, version, path, stop_if_withdrawn, self._folder.check)
        seconds = time.perf_counter() - start
        self._counters.fetched += 1
        self._counters.fetch_seconds += seconds
        _log.info("model=%s version=%d fetched seconds=%.1f", model, version, seconds)

    def _is_wanted(self, model: str, version: int) -> bool:
        release = self._releases.get(model, Release())
        return version in models_config.wanted(release, self._settings.track).versions

    def _reject(self, key: tuple[str, int], kind: str, error: BaseException | str) -> None:
        attempts = self._rejected[key].attempts + 1 if key in self._rejected else 1
        wait_s = min(_LONGEST_WAIT_S, self._settings.interval_s * 2 ** min(attempts, 12))
        retry_at = float("inf") if kind == "load" else self._clock() + wait_s
        self._rejected[key] = Rejection(kind, str(error) or type(error).__name__, attempts, retry_at)
        self._count(kind, str(error))

    def _clear_rejections(self, model: str) -> None:
        """A new release record clears all rejections of the model."""
        for key in [key for key in self._rejected if key[0] == model]:
            del self._rejected[key]

    def _is_loaded(self, model: str, version: int) -> bool:
        if not self._settings.server:
            return True
        state, error = _server_state(self._settings.server, model, version)
        if state == "END" and error and (model, version) not in self._rejected:
            self._reject((model, version), "load", f"The server cannot load version {version}: {error}")
        return state == "AVAILABLE"

    def _remove_unused(self) -> None:
        """Remove versions that are no longer referenced, once the server had time to unload them."""
        for model, release in self._releases.items():
            goal = models_config.wanted(release, self._settings.track)
            kept = {*self._configs[model].versions, *goal.versions, release.previous}
            for version in self._folder.versions(model):
                since = self._unused_since.setdefault((model, version), self._clock())
                if version in kept:
                    del self._unused_since[model, version]
                elif self._clock() - since >= self._settings.grace_s:
                    self._folder.remove(model, version)
        for key in [k for k, future in self._fetches.items() if future.done() and not self._is_wanted(*k)]:
            del self._fetches[key]

    def _status_of(self, model: str) -> ModelStatus:
        config = self._configs.get(model, ConfigEntry())
        release = self._releases.get(model, Release())
        return ModelStatus(
            wanted=dict(models_config.wanted(release, self._settings.track).labels),
            labels=dict(config.labels),
            versions=config.versions,
            fetching=tuple(sorted(version for name, version in list(self._fetches) if name == model)),
            rejected={v: r for (name, v), r in sorted(list(self._rejected.items())) if name == model},
        )

    def _count(self, kind: str, message: str) -> None:
        self._counters.failures[kind] += 1
        _log.warning("failure=%s message=%s", kind, message)


def run(
    store_uri: str,
    folder: Path,
    settings: SyncSettings,
    *,
    host: str = "",
    port: int | None = STATUS_PORT,
    once: bool = False,
) -> SyncStatus:
    """The body of `pergola sync STORE FOLDER`: follow until SIGTERM or SIGINT, then return the status.

    port: of /healthz, /readyz, /status and /metrics; None: no server.  once: fetch and stop.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Sync(model_store.open_store(store_uri), folder, settings) as sync, contextlib.ExitStack() as stack:
        if once:
            sync.settle(timeout_s=float("inf"))
            return sync.status()
        if port is not None:
            stack.enter_context(StatusServer(sync.status, host, port))
        _log.info("store=%s folder=%s track=%s", store_uri, folder, settings.track)
        sync.run(stop)
        return sync.status()


def _server_state(server: str, model: str, version: int) -> tuple[str, str]:
    """State and error message of a version from the server; empty if it does not answer."""
    try:
        with urllib.request.urlopen(f"{server}/v1/models/{model}/versions/{version}", timeout=2) as reply:
            data: Mapping[str, Any] = json.load(reply)["model_version_status"][0]
        return str(data["state"]), str(data.get("status", {}).get("error_message", ""))
    except (OSError, ValueError, KeyError, IndexError):
        return "", ""
