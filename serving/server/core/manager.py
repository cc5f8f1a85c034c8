"""Keeps the configured versions of the configured models loaded.

One thread looks at the base paths, decides (serving/server/config/versions.py) and hands loading and
unloading to a pool; requests read a table that is replaced as a whole and never changed, so they take no lock
here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pergola.serving.server.config import versions
from pergola.serving.server.config.errors import (
    DeadlineExpired,
    LabelNotAvailable,
    ModelsNotAvailable,
    NoSuchVersionOfModel,
    NoVersionsOfModel,
    ServableNotFound,
    ServingError,
    Superseded,
    UnknownLabel,
    VersionDamaged,
    VersionNotTrusted,
    code_of,
)
from pergola.serving.server.config.model_config import ModelConfig
from pergola.serving.server.core.model import Model
from pergola.serving.server.core.servable import (
    Servable,
    ServableStatus,
    ServableVersion,
    VersionState,
    stamp_of,
)

log = logging.getLogger(__name__)

Load = Callable[[ModelConfig, int, Path], Model]


@dataclass(frozen=True)
class ManagerSettings:
    """How versions are discovered and loaded. The defaults are the stock server's."""

    poll_s: float = 1.0  # 0: only once
    num_load_threads: int = 0
    num_unload_threads: int = 0
    max_num_load_retries: int = 5
    load_retry_interval_s: float = 60.0
    allow_labels_for_unavailable: bool = False


@dataclass
class _Entry:
    """One configured model. desired is None until its base path has been read."""

    config: ModelConfig
    desired: dict[int, Path] | None = None
    versions: dict[int, ServableVersion] = field(default_factory=dict)
    removed: bool = False
    last_error: str = ""  # the last error of its base path, logged once

    def available(self) -> list[int]:
        return [v.number for v in self.versions.values() if v.state is VersionState.AVAILABLE]


class Manager:
    """The models of a server. `load(config, version, folder)` gives a warmed-up model or raises."""

    def __init__(
        self, load: Load, settings: ManagerSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._load = load
        self._settings = settings
        self._clock = clock
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._ready: Mapping[str, Mapping[int, Servable]] = {}  # replaced as a whole
        self._stopping = False
        self._poll_now = False
        self._loaders = ThreadPoolExecutor(max(1, settings.num_load_threads), "load")
        self._unloaders = ThreadPoolExecutor(max(1, settings.num_unload_threads), "unload")
        self._generation = 0
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._thread.start()

    def acquire(self, model: str, version: int | None = None, label: str | None = None) -> Servable:
        """The servable for a request, held until it is released (`with manager.acquire(…) as servable`).

        Raises ServableNotFound, UnknownLabel.
        """
        if label is not None:
            version = self._version_of(model, label)
        while True:
            loaded = self._ready.get(model)
            if not loaded:
                raise ServableNotFound(model, version)
            servable = loaded[max(loaded)] if version is None else loaded.get(version)
            if servable is None:
                raise ServableNotFound(model, version)
            if servable.acquire():
                return servable
            time.sleep(0)  # just unloaded: the table is about to change

    def apply(
        self,
        configs: list[ModelConfig],
        timeout_s: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve exactly these models; wait until new ones are available.

        taken: called once nothing can refuse them any more. Raises LabelNotAvailable before anything changes;
        ModelsNotAvailable, DeadlineExceeded and Superseded after: what could be loaded is served even then.
        """
        deadline = None if timeout_s is None else self._clock() + timeout_s
        with self._changed:
            self._check_labels(configs)
            taken()
            self._generation += 1
            generation = self._generation
            self._labels = {config.name: dict(config.labels) for config in configs}
            fresh = self._replace(configs)
        while not self._are_up(fresh, generation):
            if cancelled() or (deadline is not None and self._clock() >= deadline):
                raise DeadlineExpired()

    def statuses(self, model: str, version: int | None = None) -> list[ServableStatus]:
        """The state of a model's versions, newest first.

        Raises NoVersionsOfModel, NoSuchVersionOfModel.
        """
        with self._changed:
            entry = self._entries.get(model)
            known = [] if entry is None else [v.status() for v in entry.versions.values()]
        if version is not None:
            known = [status for status in known if status.version == version]
            if not known:
                raise NoSuchVersionOfModel(model=model, version=version)
        if not known:
            raise NoVersionsOfModel(model=model)
        return sorted(known, key=lambda status: -status.version)

    def models(self) -> list[str]:
        """Names of the configured models."""
        with self._changed:
            return sorted(name for name, entry in self._entries.items() if not entry.removed)

    def has(self, configs: list[ModelConfig]) -> bool:
        """Whether exactly these were applied last."""
        with self._changed:
            now = {name: entry.config for name, entry in self._entries.items() if not entry.removed}
        return now == {config.name: config for config in configs}

    def in_flight(self) -> int:
        """The number of requests in flight."""
        return sum(servable.in_flight for loaded in self._ready.values() for servable in loaded.values())

    def overview(self) -> list[tuple[str, int, str]]:
        """(model, version, state) of all versions."""
        with self._changed:
            return [
                (name, version.number, version.state.name)
                for name, entry in sorted(self._entries.items())
                for version in entry.versions.values()
            ]

    def poll(self) -> None:
        """Poll the base paths now, regardless of the interval."""
        with self._changed:
            self._poll_now = True
            self._changed.notify_all()

    def close(self) -> None:
        """Unload everything. Requests that still hold a servable finish first."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._loaders.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            for entry in self._entries.values():
                for number in entry.available():
                    self._unload(entry, entry.versions[number])
        self._unloaders.shutdown(wait=True)

    def _version_of(self, model: str, label: str) -> int:
        version = self._labels.get(model, {}).get(label)
        if version is None:
            raise UnknownLabel(label=label)
        return version

    def _check_labels(self, configs: list[ModelConfig]) -> None:
        """Labels must refer to loaded versions, as in the stock server.

        By the flag a label may point ahead, but not move there: whoever asks for it would be cut off.
        """
        for config in configs:
            entry, now = self._entries.get(config.name), self._labels.get(config.name, {})
            loaded = entry.available() if entry else []
            for label, version in sorted(config.labels.items()):
                ahead = self._settings.allow_labels_for_unavailable and now.get(label, version) == version
                if version not in loaded and not ahead:
                    raise LabelNotAvailable(model=config.name, version=version)

    def _replace(self, configs: list[ModelConfig]) -> list[str]:
        """Apply new configurations. Returns the names of new models."""
        names = {config.name for config in configs}
        fresh = [n for n in names if n not in self._entries or self._entries[n].removed]
        for name, entry in self._entries.items():
            if name not in names:
                entry.removed, entry.desired = True, {}
        for config in configs:
            entry = self._entries.setdefault(config.name, _Entry(config))
            if entry.removed:
                entry.desired = None
            entry.config, entry.removed = config, False
        self._poll_now = True
        self._changed.notify_all()
        return sorted(fresh)

    def _are_up(self, names: list[str], generation: int) -> bool:
        """Whether each model has an available version; waits briefly if not."""
        with self._changed:
            if self._generation != generation:
                raise Superseded()
            entries = [self._entries[name] for name in names]
            if not all(entry.available() or _hopeless(entry) for entry in entries):
                self._changed.wait(0.1)
                return self._stopping
            failed = [_reason(e, v) for e in entries if not e.available() for v in e.versions.values()]
        if failed:
            raise ModelsNotAvailable(failed)
        return True

    def _run(self) -> None:
        next_poll = 0.0
        while True:
            with self._changed:
                if self._stopping:
                    return
                due = self._poll_now or (self._settings.poll_s > 0 and self._clock() >= next_poll)
                entries, self._poll_now = list(self._entries.values()), False
            if due:
                found = {entry.config.name: _look(entry) for entry in entries if not entry.removed}
                next_poll = self._clock() + self._settings.poll_s
            with self._changed:
                if due:
                    self._note(found)
                for entry in list(self._entries.values()):
                    self._step(entry)
                if not self._stopping and not self._poll_now:
                    self._changed.wait(self._pause(next_poll))

    def _note(self, found: Mapping[str, dict[int, Path] | None]) -> None:
        for name, desired in found.items():
            entry = self._entries.get(name)
            if entry is not None and not entry.removed and desired is not None:
                entry.desired = desired

    def _pause(self, next_poll: float) -> float | None:
        """Seconds until the next action, unless something changes before."""
        times = [v.retry_at for e in self._entries.values() for v in e.versions.values() if v.retry_at]
        if self._settings.poll_s > 0:
            times.append(next_poll)
        return max(0.0, min(times) - self._clock()) if times else None

    def _step(self, entry: _Entry) -> None:
        """Start the loads and unloads that are possible for one model now."""
        if entry.desired is None:
            return
        desired = set(entry.desired)
        for number, version in list(entry.versions.items()):
            if version.failed and (number not in desired or version.was_repaired):
                del entry.versions[number]  # if it reappears, it is loaded again
            elif version.retry_at and number not in desired:
                version.state, version.retry_at = VersionState.END, 0.0
        known = [n for n, v in entry.versions.items() if v.state is not VersionState.END or v.failed]
        plan = versions.plan(desired, entry.available(), known)
        for number in plan.load:
            entry.versions[number] = version = ServableVersion(number, entry.desired[number])
            self._loaders.submit(self._try, entry, version)
        for version in entry.versions.values():
            if version.retry_at and version.retry_at <= self._clock():
                version.retry_at = 0.0
                self._loaders.submit(self._try, entry, version)
        for number in plan.unload:
            self._unload(entry, entry.versions[number])

    def _try(self, entry: _Entry, version: ServableVersion) -> None:
        """Load one version, in a thread of the pool."""
        with self._changed:
            if self._stopping or entry.desired is None or version.number not in entry.desired:
                version.state = VersionState.END
                self._changed.notify_all()
                return
            version.state, version.attempts = VersionState.LOADING, version.attempts + 1
            version.stamp = stamp_of(version.path)
        started = self._clock()
        try:
            model = self._load(entry.config, version.number, version.path)
        except Exception as error:
            self._failed(entry, version, error)
            return
        servable = Servable(entry.config.name, version.number, model)
        with self._changed:
            version.servable, version.state = servable, VersionState.AVAILABLE
            self._publish()
            self._changed.notify_all()
        log.info(
            "loaded model=%s version=%d seconds=%.2f",
            entry.config.name,
            version.number,
            self._clock() - started,
        )

    def _failed(self, entry: _Entry, version: ServableVersion, error: Exception) -> None:
        message = str(error) or type(error).__name__
        unexpected = None if isinstance(error, ServingError) else error
        with self._changed:
            version.code, version.message = code_of(error), message
            final = (
                isinstance(error, VersionDamaged | VersionNotTrusted) or self._stopping
            )  # its files do not heal by waiting
            if final or version.attempts > self._settings.max_num_load_retries:
                version.state = VersionState.END
            else:
                version.state = VersionState.LOADING
                version.retry_at = self._clock() + self._settings.load_retry_interval_s
            self._changed.notify_all()
        log.error(
            "load failed model=%s version=%d attempt=%d of %d folder=%s: %s",
            entry.config.name,
            version.number,
            version.attempts,
            self._settings.max_num_load_retries + 1,
            version.path,
            message,
            exc_info=unexpected,
        )

    def _unload(self, entry: _Entry, version: ServableVersion) -> None:
        servable = version.servable
        if servable is None:
            return
        version.servable, version.state = None, VersionState.UNLOADING
        self._publish()

        def ended() -> None:
            with self._changed:
                version.state = VersionState.END
                self._changed.notify_all()
            log.info("unloaded model=%s version=%d", entry.config.name, version.number)

        self._unloaders.submit(servable.close, ended)

    def _publish(self) -> None:
        self._ready = {
            name: ready
            for name, entry in self._entries.items()
            if (ready := {v.number: v.servable for v in entry.versions.values() if v.servable})
        }


def _hopeless(entry: _Entry) -> bool:
    """Whether every desired version failed for good."""
    return bool(entry.desired) and all(
        number in entry.versions and entry.versions[number].failed for number in entry.desired or ()
    )


def _reason(entry: _Entry, version: ServableVersion) -> str:
    name = f"{{name: {entry.config.name} version: {version.number}}}"
    return f"{name} due to error: {version.code.name}: {version.message}"


def _look(entry: _Entry) -> dict[int, Path] | None:
    """The desired versions on disk; None when the base path cannot be read, so that nothing changes."""
    name, base, found = entry.config.name, entry.config.base_path, None
    last_error = ""
    try:
        found = versions.find(base)
        if not found:
            last_error = f"No versions of servable {name} found under base path {base}"
    except OSError as error:
        last_error = f"Base path {base} of servable {name} cannot be read; nothing changes: {error}"
    if last_error and last_error != entry.last_error:
        log.error("%s", last_error)
    entry.last_error = last_error
    if found is None:
        return None
    return {number: found[number] for number in versions.choose(found, entry.config.policy)}
