"""Functions that are called later, such as the next attempt of a call behind a future."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class DelayedCalls:
    """Calls functions after a delay, on one thread that starts with the first of them."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, pause_s: float, function: Callable[[], None]) -> None:
        """Call `function` after `pause_s` seconds; at once, in this thread, when closed."""
        with self._changed:
            if not self._closed:
                heapq.heappush(self._due, (time.monotonic() + pause_s, next(self._order), function))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="pergola-retries", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        function()

    def close(self) -> None:
        """Call the remaining functions at once and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (function := self._next()) is not None:
            function()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while True:
                if self._due and (self._closed or self._due[0][0] <= time.monotonic()):
                    return heapq.heappop(self._due)[2]
                if self._closed:
                    return None
                self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
