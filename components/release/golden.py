"""Golden requests: does a server answer as the model did when it was evaluated?

Every output of the classifying signature is compared, and the class names that the model gives. Numbers may
differ a little from machine to machine: by how much is measured, and the caller decides. Labels, decisions
and other texts are right or wrong.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.evaluation import GoldenRequest, GoldenRequests, plain
from pergola.serving.wire import contract

if TYPE_CHECKING:
    from pergola.serving.client import Client


@dataclass(frozen=True)
class Answers:
    """A server's answers to the golden requests."""

    num_requests: int
    max_difference: float  # largest |served - golden| probability, 0 to 1; of other outputs, see _distance
    version: int  # of the model that answered
    latencies_ms: tuple[float, ...]  # of each request with one image, in order, without the first

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies, 0 to 100."""
        return float(np.percentile(self.latencies_ms, percent))


class WrongAnswer(Exception):
    """A server answered, but with other outputs, labels or decisions than the model when it was evaluated."""


def ask(client: Client, golden: GoldenRequests, *, rounds: int = 1) -> Answers:
    """Send each golden image alone, `rounds` times, then all of them in one request.

    The first request opens the connection; its latency counts only if there is no other.
    Raises WrongAnswer, and the client's errors if there is no answer.
    """
    images = [base64.b64decode(request.image) for request in golden.requests]
    differences, latencies = [], []
    for _ in range(rounds):
        for image, request in zip(images, golden.requests, strict=True):
            begin = time.perf_counter()
            served = client.predict({contract.IMAGE: [image]})
            latencies.append((time.perf_counter() - begin) * 1000)
            differences.append(_difference(served.outputs, golden, [request]))
    served = client.predict({contract.IMAGE: images})
    differences.append(_difference(served.outputs, golden, golden.requests))
    _check_class_names(client, golden)
    return Answers(len(differences), max(differences), served.version, tuple(latencies[1:] or latencies))


def _difference(
    served: Mapping[str, npt.NDArray[Any]], golden: GoldenRequests, requests: Sequence[GoldenRequest]
) -> float:
    """The largest difference of a number. Raises WrongAnswer for other names, shapes or texts."""
    _check_names(served, golden)
    wanted = np.array([request.probabilities for request in requests])
    probabilities = served[contract.PROBABILITIES]
    largest = _distance(contract.PROBABILITIES, probabilities, wanted)
    if contract.PROBABILITY in served:
        largest = max(largest, _distance(contract.PROBABILITY, served[contract.PROBABILITY], wanted.max(1)))
    _check_texts(contract.LABEL, served[contract.LABEL], _labels(probabilities, golden, requests))
    if all(request.decisions for request in requests):
        _check_texts(contract.DECISION, served[contract.DECISION], [r.decisions for r in requests])
    for name in requests[0].outputs:
        expected = np.array([request.outputs[name] for request in requests])
        if expected.dtype.kind == "U":
            _check_texts(name, served[name], [(text,) for text in expected.ravel().tolist()], expected.shape)
        else:
            largest = max(largest, _distance(name, served[name], expected))
    return largest


def _check_names(served: Mapping[str, Any], golden: GoldenRequests) -> None:
    """The outputs are those that were recorded; without a record, those that can be compared are there."""
    wanted = {contract.PROBABILITIES, contract.LABEL, *golden.outputs}
    for request in golden.requests:
        wanted |= {*request.outputs, *([contract.DECISION] if request.decisions else [])}
    if wanted - {*served} or (golden.outputs and {*served} != wanted):
        raise WrongAnswer(
            f"it answered with the outputs {', '.join(sorted(served))}, expected {', '.join(sorted(wanted))}"
        )


def _distance(name: str, served: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Largest |served - wanted|, relative to what was wanted where that is above 1."""
    if served.shape != wanted.shape:
        axes = " (images, classes)" if name == contract.PROBABILITIES else ""
        raise WrongAnswer(f"it answered with {name} of shape {served.shape}, expected {wanted.shape}{axes}")
    if served.dtype.kind not in "biuf":
        raise WrongAnswer(f"it answered with {name} of type {served.dtype}, expected numbers")
    values = served.astype(np.float64)
    if not np.isfinite(values).all():
        raise WrongAnswer(f"it answered with numbers that are not finite, in {name}")
    expected = wanted.astype(np.float64)
    return float((np.abs(values - expected) / np.maximum(np.abs(expected), 1.0)).max(initial=0.0))


def _labels(
    probabilities: npt.NDArray[Any], golden: GoldenRequests, requests: Sequence[GoldenRequest]
) -> list[tuple[str, ...]]:
    """The right label of each image: that of the evaluation, or, where two classes are about equally likely
    and the other one came out ahead, the name of that one."""
    best = probabilities.argmax(1)
    return [
        (request.label if i == np.argmax(request.probabilities) else golden.labels[i],)
        for i, request in zip(best, requests, strict=True)
    ]


def _check_texts(
    name: str, served: npt.NDArray[Any], allowed: Sequence[Sequence[str]], shape: tuple[int, ...] = ()
) -> None:
    """Each text is one of those allowed in its place."""
    if served.shape != (shape or (len(allowed),)):
        raise WrongAnswer(
            f"it answered with {name} of shape {served.shape}, expected {shape or (len(allowed),)}"
        )
    for text, texts in zip(plain(served.ravel().tolist()), allowed, strict=True):
        if text not in texts:
            expected = " or ".join(repr(one) for one in texts)
            raise WrongAnswer(f"it answered with {name} {text!r} where {expected} is expected")


def _check_class_names(client: Client, golden: GoldenRequests) -> None:
    """The signature from which clients take the class names gives them in the order of the evaluation."""
    index = np.arange(len(golden.labels), dtype=np.int64)
    served = client.predict({contract.INDEX: index}, signature=contract.LABELS, outputs=[contract.LABEL])
    _check_texts("the class name", served[contract.LABEL], [(label,) for label in golden.labels])
