"""Runs the client's flows over a channel: in the thread that waits for them, or behind a future."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future, InvalidStateError
from functools import partial
from typing import Any, Generic

import grpc

from pergola.serving.client.delayed_calls import DelayedCalls
from pergola.serving.client.effects import (
    END,
    Answer,
    Attempt,
    Effect,
    Flow,
    IsConnected,
    Next,
    Pause,
    Start,
    WaitFor,
    Work,
)
from pergola.serving.client.rpc import closed

_STATE_WAIT_S = 0.2


class BlockingTransport:
    """Safe to use from many threads."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._stubs: dict[str, Any] = {}
        self._delayed = DelayedCalls()

    def run(self, flow: Flow[Answer]) -> Answer:
        """The flow's result, in this thread."""
        resume, value = flow.send, None
        while True:
            try:
                effect = resume(value)
            except StopIteration as done:
                return done.value
            try:
                resume, value = flow.send, self._perform(effect)
            except Exception as error:
                resume, value = flow.throw, error

    def start(self, flow: Flow[Answer]) -> Future[Answer]:
        """A future of the flow's result."""
        return _Pending(self, flow).future

    def close(self) -> None:
        """Cancel the calls in flight and close the connection."""
        self._channel.close()
        self._delayed.close()

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Attempt():
                return self._send(effect, wait=True)
            case Pause():
                time.sleep(effect.seconds)
            case IsConnected():
                return self._is_connected()
            case Start():
                return self.start(effect.flow)
            case WaitFor():
                futures.wait(effect.futures, return_when=futures.FIRST_COMPLETED)
            case Next():
                return next(effect.items, END)  # type: ignore[arg-type]
            case Work():
                return effect.function()

    def _send(self, attempt: Attempt, *, wait: bool) -> Any:
        """The reply's bytes, or with wait=False gRPC's future of them."""
        stub = self._stubs.get(attempt.path) or self._stub(attempt.path)
        try:
            return (stub if wait else stub.future)(
                attempt.payload, timeout=attempt.timeout_s, metadata=attempt.metadata
            )
        except ValueError as error:  # the channel was closed while we came here
            raise closed(str(error)) from error

    def _stub(self, path: str) -> Any:
        """Bytes in, bytes out: gRPC would log and hide errors in a message."""
        stub = self._channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        self._stubs[path] = stub
        return stub

    def _is_connected(self) -> bool:
        states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
        try:
            self._channel.subscribe(states.put)
            return states.get(timeout=_STATE_WAIT_S) is grpc.ChannelConnectivity.READY
        except (queue.Empty, ValueError):  # not told in time, or closed meanwhile
            return True
        finally:
            self._channel.unsubscribe(states.put)


class _Pending(Generic[Answer]):
    """A flow that a future stands for: gRPC's thread, and that of the pauses, carry it on."""

    def __init__(self, transport: BlockingTransport, flow: Flow[Answer]) -> None:
        self.future: Future[Answer] = Future()
        self._transport, self._flow = transport, flow
        self._call: Any = None
        self.future.add_done_callback(self._stop)
        self._resume(flow.send, None)

    def _resume(self, resume: Callable[[Any], Effect], value: Any) -> None:
        """Errors go into the future."""
        try:
            effect = resume(value)
        except StopIteration as done:
            with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                self.future.set_result(done.value)
        except Exception as error:
            with contextlib.suppress(InvalidStateError):
                self.future.set_exception(error)
        else:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        try:
            if isinstance(effect, Attempt):
                self._call = self._transport._send(effect, wait=False)
                self._call.add_done_callback(partial(self._answered, effect))
                self._stop(self.future)
            elif self.future.cancelled():
                self._flow.close()
            elif isinstance(effect, Pause):
                self._transport._delayed.call(effect.seconds, partial(self._resume, self._flow.send, None))
            else:
                self._resume(self._flow.send, self._transport._perform(effect))
        except Exception as error:
            self._resume(self._flow.throw, error)

    def _answered(self, attempt: Attempt, call: Any) -> None:
        if call.cancelled():
            self._resume(self._flow.throw, attempt.cancelled())
        elif (error := call.exception()) is not None:
            self._resume(self._flow.throw, error)
        else:
            self._resume(self._flow.send, call.result())

    def _stop(self, future: Future[Answer]) -> None:
        if future.cancelled() and self._call is not None:
            self._call.cancel()
