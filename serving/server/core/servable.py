"""One loaded version of a model, and how it goes without cutting off a request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Self

from pergola.serving.server.config.errors import Code
from pergola.serving.server.core.model import Model


class State(IntEnum):
    """Where a version is, numbered as ModelVersionStatus.State numbers it."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """What GetModelStatus says of one version. message is empty unless it failed."""

    version: int
    state: State
    code: Code = Code.OK
    message: str = ""


class Servable:
    """A model version that answers requests. A request holds it with `with servable:`.

    Closing waits for no one: the model is closed by whoever lets go last.
    """

    def __init__(self, name: str, version: int, model: Model) -> None:
        self.name = name
        self.version = version
        self.model = model
        self._lock = threading.Lock()
        self._holders = 0
        self._closing = False
        self._when_closed: Callable[[], None] = lambda: None

    @property
    def in_flight(self) -> int:
        """Requests that hold it now."""
        return self._holders

    def acquire(self) -> bool:
        """Hold it; False when it is already going, and another one must be looked up."""
        with self._lock:
            if self._closing:
                return False
            self._holders += 1
            return True

    def release(self) -> None:
        """Let go."""
        with self._lock:
            self._holders -= 1
            last = self._closing and not self._holders
        if last:
            self._close()

    def close(self, when_closed: Callable[[], None]) -> None:
        """Take no more requests; close the model after the last one and call `when_closed`."""
        with self._lock:
            self._closing, self._when_closed = True, when_closed
            idle = not self._holders
        if idle:
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _close(self) -> None:
        try:
            self.model.close()
        finally:
            self._when_closed()


@dataclass
class Version:
    """What the manager knows of one version of one model."""

    number: int
    path: Path
    state: State = State.START
    code: Code = Code.OK
    message: str = ""
    attempts: int = 0
    retry_at: float = 0.0
    servable: Servable | None = field(default=None, repr=False)

    @property
    def failed(self) -> bool:
        """Whether loading was given up."""
        return self.state is State.END and self.code is not Code.OK

    def status(self) -> VersionStatus:
        """A frozen copy for whoever asks."""
        return VersionStatus(self.number, self.state, self.code, self.message)
