"""One loaded version of a model, unloaded without interrupting requests."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Self

from pergola.serving.server.config.errors import Code
from pergola.serving.server.core.model import Model


class VersionState(IntEnum):
    """The state of a version, with the numbers of ModelVersionStatus.State."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class ServableStatus:
    """GetModelStatus's entry for one version. message is empty unless it failed."""

    version: int
    state: VersionState
    code: Code = Code.OK
    message: str = ""


class Servable:
    """A loaded model version. A request holds it with `with servable:`.

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
        """The number of requests that hold it."""
        return self._holders

    def acquire(self) -> bool:
        """Hold it; False when it is being unloaded and another must be looked up."""
        with self._lock:
            if self._closing:
                return False
            self._holders += 1
            return True

    def release(self) -> None:
        """Release it."""
        with self._lock:
            self._holders -= 1
            last = self._closing and not self._holders
        if last:
            self._close()

    def close(self, when_closed: Callable[[], None]) -> None:
        """Accept no more requests; close the model after the last one and call `when_closed`."""
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
class ServableVersion:
    """The manager's record of one version of one model."""

    number: int
    path: Path
    state: VersionState = VersionState.START
    code: Code = Code.OK
    message: str = ""
    attempts: int = 0
    retry_at: float = 0.0
    servable: Servable | None = field(default=None, repr=False)
    stamp: frozenset[tuple[str, int, int, int]] = frozenset()  # of its files when it was loaded last

    @property
    def failed(self) -> bool:
        """Whether loading failed for good."""
        return self.state is VersionState.END and self.code is not Code.OK

    @property
    def was_repaired(self) -> bool:
        """Whether its files were damaged and are others now: it was published again, or its copy ended."""
        refused = self.failed and self.code in (Code.DATA_LOSS, Code.PERMISSION_DENIED)
        return refused and self.stamp != stamp_of(self.path)

    def status(self) -> ServableStatus:
        """A frozen copy of the status."""
        return ServableStatus(self.number, self.state, self.code, self.message)


def stamp_of(folder: Path) -> frozenset[tuple[str, int, int, int]]:
    """Name, inode, size and time of change of each file below a folder, which may go away meanwhile."""
    found = set()
    for place, _, names in os.walk(folder):  # says nothing of folders that are gone
        for path in (os.path.join(place, name) for name in names):
            with contextlib.suppress(OSError):
                stat = os.stat(path)
                found.add((path, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)
