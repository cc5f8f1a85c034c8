"""What the client's protocol asks of a transport: it decides, a transport sends, waits and reads.

The protocol is written as generators ("flows") that yield the effects below and return a result. A
transport runs a flow: it performs each effect and sends the outcome back into the generator, or throws the
error. So one flow serves a thread that waits and a future (blocking_transport.py), and an event loop
(async_transport.py).

Effects are named tuples because these take a tenth of the time of dataclasses when the client is imported.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from pergola.serving.client.errors import CallInfo, Cancelled, DeadlineExceeded

Answer = TypeVar("Answer")
Flow: TypeAlias = Generator["Effect", Any, Answer]

END = object()  # what Next gives after the last item


class Attempt(NamedTuple):
    """Send a request once. Gives the reply's bytes; a failed call raises grpc.RpcError."""

    path: str  # "/tensorflow.serving.PredictionService/Predict"
    payload: bytes
    metadata: tuple[tuple[str, str], ...]
    timeout_s: float  # what is left for the call
    call_info: CallInfo

    def cancelled(self) -> Cancelled:
        """The error of a call that was cancelled here."""
        return Cancelled(f"{self.call_info.call} of {self.call_info.model} was cancelled.")

    def crowded_out(self, max_in_flight: int) -> DeadlineExceeded:
        """The error of a call that was never sent: others took its time."""
        return DeadlineExceeded(
            f"{self.call_info.call} of {self.call_info.model} was not sent within "
            f"{self.call_info.timeout_s:g} s: max_in_flight={max_in_flight} other calls of this client were "
            "in flight. Make fewer calls at a time, or raise timeout_s or max_in_flight."
        )


class Pause(NamedTuple):
    """Wait that long. A transport that is closed may end it early."""

    seconds: float


class IsConnected(NamedTuple):
    """Gives whether there is a connection now; gRPC's deadline looks the same with and without one."""


class Start(NamedTuple):
    """Run another flow meanwhile. Gives a future of its result: done(), result(), cancel()."""

    flow: Flow[Any]


class WaitFor(NamedTuple):
    """Wait until one of these futures is done."""

    futures: Sequence[Any]


class Next(NamedTuple):
    """Gives the next item of what the caller passed, or END."""

    items: Iterator[Any] | AsyncIterator[Any]


class Work(NamedTuple):
    """Gives the result of a function that reads or writes files, or computes for milliseconds."""

    function: Callable[[], Any]


Effect: TypeAlias = Attempt | Pause | IsConnected | Start | WaitFor | Next | Work


def iterate(items: Iterable[Any] | AsyncIterable[Any]) -> Iterator[Any] | AsyncIterator[Any]:
    """An iterator for Next."""
    return aiter(items) if isinstance(items, AsyncIterable) else iter(items)


def take(items: Iterator[Any] | AsyncIterator[Any]) -> Flow[Any]:
    """The next item, or END."""
    return (yield Next(items))
