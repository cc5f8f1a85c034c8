"""Callers that ask a server all the time, each request with a number of its own, so that a mix-up shows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pergola.serving.client import Client

Pair = tuple[float, float]  # asked, answered


def load_while(client: Client, action: Callable[[], None], *, threads: int = 8) -> list[Pair]:
    """All pairs that `threads` callers got while `action` ran. An error in any of them is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        callers = [pool.submit(_ask_until, client, stop, i, threads) for i in range(threads)]
        try:
            action()
        finally:
            stop.set()
        return [pair for caller in callers for pair in caller.result()]


def _ask_until(client: Client, stop: threading.Event, first: int, step: int) -> list[Pair]:
    pairs, number = [], float(first)
    while not stop.is_set():
        answer = client.predict({"x": np.array([number], np.float32)})["y"]
        pairs.append((number, float(answer[0])))
        number += step
    return pairs
