"""Log the metrics of each epoch to the registry during training, without ever delaying it.

Importing MLflow takes seconds, and a disk can be slow or full. A separate thread takes the metrics from a
queue; its errors are kept and reported at the end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from typing import Self

_STOP = None


class Tracker:
    """`epoch(step, figures)` logs the metrics of one epoch; use it in a `with` block.

    tracking_uri, key: the registry and its run (see Runs.open).  problem: the error message, empty if
    there was no error.
    """

    def __init__(self, tracking_uri: str, key: str, name: str = "", *, close_timeout_s: float = 20.0) -> None:
        self._target = (tracking_uri, key, name)
        self._close_timeout_s = close_timeout_s
        self._waiting: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.problem = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def epoch(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the metrics of epoch `step`, 1-based. Returns at once and never raises."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()
        self._waiting.put((step, dict(figures)))

    def close(self) -> None:
        """Wait until everything is logged, at most `close_timeout_s`."""
        if self._thread is None:
            return
        self._waiting.put(_STOP)
        self._thread.join(self._close_timeout_s)
        if self._thread.is_alive():
            self.problem = (
                f"The registry did not accept the metrics of the epochs within {self._close_timeout_s:g} s."
            )
        self._thread = None

    def _work(self) -> None:
        try:
            from pergola.components.release.registry.registry import Registry

            uri, key, name = self._target
            registry = Registry(uri)
            run = registry.runs.open(key, name)
            while (item := self._waiting.get()) is not _STOP:
                step, figures = item
                registry.runs.log_epochs(run, [figures], first=step)
        except Exception as error:
            self.problem = str(error) or type(error).__name__
