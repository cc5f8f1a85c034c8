"""Golden requests: does a server answer as the model did when it was evaluated?"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.serving.wire import contract

if TYPE_CHECKING:
    from pergola.serving.client.client import Client


@dataclass(frozen=True)
class Answers:
    """A server's answers to the golden requests."""

    num_requests: int
    max_difference: float  # largest |served - golden| probability, 0 to 1
    version: int  # of the model that answered
    latencies_ms: tuple[float, ...]  # of each request with one image, in order, without the first

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies, 0 to 100."""
        return float(np.percentile(self.latencies_ms, percent))


class WrongAnswer(Exception):
    """A server answered, but not with probabilities of these classes."""


def ask(client: Client, golden: GoldenRequests, *, rounds: int = 1) -> Answers:
    """Send each golden image alone, `rounds` times, then all of them in one request.

    The first request opens the connection; its latency counts only if there is no other.
    Raises WrongAnswer, and the client's errors if there is no answer.
    """
    images = [base64.b64decode(request.image) for request in golden.requests]
    wanted = np.array([request.probabilities for request in golden.requests])
    differences, latencies, version = [], [], 0
    for _ in range(rounds):
        for image, row in zip(images, wanted, strict=True):
            begin = time.perf_counter()
            served, version = _served(client, [image])
            latencies.append((time.perf_counter() - begin) * 1000)
            differences.append(_difference(served, row[None]))
    served, version = _served(client, images)
    differences.append(_difference(served, wanted))
    return Answers(len(differences), max(differences), version, tuple(latencies[1:] or latencies))


def _served(client: Client, images: list[bytes]) -> tuple[np.ndarray, int]:
    prediction = client.predict({contract.IMAGE: images}, outputs=[contract.PROBABILITIES])
    return np.asarray(prediction[contract.PROBABILITIES], np.float64), prediction.version


def _difference(served: np.ndarray, wanted: np.ndarray) -> float:
    if served.shape != wanted.shape:
        raise WrongAnswer(f"it answered with shape {served.shape}, expected {wanted.shape} (images, classes)")
    if not np.isfinite(served).all():
        raise WrongAnswer("it answered with numbers that are not finite")
    return float(np.abs(served - wanted).max())
