"""Limits how many requests run at once and how many may wait."""

from __future__ import annotations

import threading
import time
from typing import Self

from pergola.serving.server.config.errors import DeadlineExpired, Overloaded


class Limiter:
    """At most `running` requests run, at most `waiting` more wait; others are rejected at once."""

    def __init__(self, running: int, waiting: int) -> None:
        self._free = threading.Semaphore(running)
        self._limit = running + waiting
        self._lock = threading.Lock()
        self._inside = 0

    def slot(self, wait_s: float | None = None) -> Slot:
        """A place to run in, for a `with`. Raises Overloaded, or DeadlineExceeded after `wait_s`."""
        return Slot(self, wait_s)

    def enter(self, wait_s: float | None) -> None:
        """Take a place."""
        with self._lock:
            if self._inside >= self._limit:
                raise Overloaded()
            self._inside += 1
        if self._free.acquire(blocking=False):
            return
        taken = False
        try:
            taken = self._free.acquire(timeout=wait_s)
        finally:
            if not taken:
                self._leave_queue()
        if not taken:
            raise DeadlineExpired()

    def leave(self) -> None:
        """Give the place back."""
        self._free.release()
        self._leave_queue()

    def drain(self, timeout_s: float) -> bool:
        """Wait until no request is inside. False when some still were after `timeout_s`."""
        until = time.monotonic() + timeout_s
        while self._inside and time.monotonic() < until:
            time.sleep(0.01)
        return not self._inside

    def _leave_queue(self) -> None:
        with self._lock:
            self._inside -= 1


class Slot:
    """One request's place in a Limiter."""

    __slots__ = ("_limiter", "_wait_s")

    def __init__(self, limiter: Limiter, wait_s: float | None) -> None:
        self._limiter = limiter
        self._wait_s = wait_s

    def __enter__(self) -> Self:
        self._limiter.enter(self._wait_s)
        return self

    def __exit__(self, *error: object) -> None:
        self._limiter.leave()
