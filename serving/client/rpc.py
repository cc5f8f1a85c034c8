"""One call to a server, with its deadline, its retries and its errors: at once, or as a future."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from pergola.serving.client.channel import Connection
from pergola.serving.client.errors import (
    CallInfo,
    Cancelled,
    ClientError,
    ServerError,
    TooLarge,
    fewer,
    from_rpc,
)
from pergola.serving.client.retry import DelayedCalls, Retry, may_retry

_STATE_WAIT_S = 0.2
Reply = TypeVar("Reply")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Method(Generic[Reply]):
    """A remote procedure by its path; the reply's class is ours, the path TF-Serving's."""

    path: str  # "/tensorflow.serving.PredictionService/Predict"
    reply: type[Reply]
    idempotent: bool = True

    @property
    def name(self) -> str:
        """ "Predict"."""
        return self.path.rpartition("/")[2]


class Caller:
    """Calls methods over a channel. Safe to use from many threads."""

    def __init__(self, channel: grpc.Channel, connection: Connection, retry: Retry) -> None:
        self._channel = channel
        self._connection = connection
        self._retry = retry
        self._stubs: dict[str, Any] = {}
        self._delayed = DelayedCalls()
        self._closed = False

    def call(self, method: Method[Reply], request: Any, call_info: CallInfo) -> Reply:
        """The reply. Raises a ClientError within `call_info.timeout_s` seconds."""
        payload = _serialize(request, self._connection, call_info)
        ends = time.monotonic() + call_info.timeout_s
        failures = 0
        while True:
            try:
                return _parse(method, self._send(method, payload, ends), call_info)
            except grpc.RpcError as error:
                failures += 1
                pause = self._pause(error, method, failures, ends)
                if pause is None:
                    raise self._error(error, call_info, failures) from None
                time.sleep(pause)

    def start(
        self, method: Method[Reply], request: Any, call_info: CallInfo, read: Callable[[Reply], Answer]
    ) -> Future[Answer]:
        """A future of `read(reply)`; it can be cancelled, and awaited with asyncio.wrap_future."""
        attempt = _Pending(self, method, request, call_info, read)
        attempt.send()
        return attempt.future

    def close(self) -> None:
        """Cancel the calls in flight and close the connection."""
        self._closed = True
        self._channel.close()
        self._delayed.close()

    def _send(self, method: Method[Any], payload: bytes, ends: float, *, wait: bool = True) -> Any:
        """The reply's bytes, or with wait=False gRPC's future of them."""
        if self._closed:
            raise Cancelled(_CLOSED)
        stub = self._stubs.get(method.path) or self._stub(method)
        timeout_s = max(ends - time.monotonic(), 0.0)
        try:
            return (stub if wait else stub.future)(
                payload, timeout=timeout_s, metadata=self._connection.call_metadata()
            )
        except ValueError as error:  # the channel was closed while we came here
            raise Cancelled(_CLOSED, str(error)) from error

    def _stub(self, method: Method[Any]) -> Any:
        """Bytes in, bytes out: gRPC would log and hide errors in a message."""
        stub = self._channel.unary_unary(method.path, request_serializer=None, response_deserializer=None)
        self._stubs[method.path] = stub
        return stub

    def _error(self, error: grpc.RpcError, call_info: CallInfo, failures: int) -> ClientError:
        connected = True
        if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            connected = self._is_connected()
        return from_rpc(error, dataclasses.replace(call_info, attempts=failures), connected=connected)

    def _is_connected(self) -> bool:
        """Whether there is a connection now; gRPC's deadline looks the same with and without one."""
        states: queue.SimpleQueue[grpc.ChannelConnectivity] = queue.SimpleQueue()
        try:
            self._channel.subscribe(states.put)
            return states.get(timeout=_STATE_WAIT_S) is grpc.ChannelConnectivity.READY
        except (queue.Empty, ValueError):  # not told in time, or closed meanwhile
            return True
        finally:
            self._channel.unsubscribe(states.put)

    def _pause(self, error: grpc.RpcError, method: Method[Any], failures: int, ends: float) -> float | None:
        if self._closed or not may_retry(error, method.idempotent):
            return None
        return self._retry.pause_s(failures, ends - time.monotonic())


class _Pending(Generic[Reply, Answer]):
    """A call that a future stands for."""

    def __init__(
        self,
        caller: Caller,
        method: Method[Reply],
        request: Any,
        call_info: CallInfo,
        read: Callable[[Reply], Answer],
    ) -> None:
        self.future: Future[Answer] = Future()
        self._caller, self._method, self._call_info, self._read = caller, method, call_info, read
        self._payload = _serialize(request, caller._connection, call_info)
        self._ends = time.monotonic() + call_info.timeout_s
        self._failures = 0
        self._call: Any = None
        self.future.add_done_callback(self._stop)

    def send(self) -> None:
        """Send or resend; errors go into the future."""
        try:
            self._call = self._caller._send(self._method, self._payload, self._ends, wait=False)
            self._call.add_done_callback(self._done)
        except Exception as error:
            self._fail(error)
        if self.future.cancelled():
            self._stop(self.future)

    def _done(self, call: Any) -> None:
        if call.cancelled():
            self._fail(Cancelled(f"{self._call_info.call} of {self._call_info.model} was cancelled."))
            return
        error = call.exception()
        if error is None:
            self._finish(call)
            return
        self._failures += 1
        pause = self._caller._pause(error, self._method, self._failures, self._ends)
        if pause is None or self.future.cancelled():
            self._fail(self._caller._error(error, self._call_info, self._failures))
        else:
            self._caller._delayed.call(pause, self.send)

    def _finish(self, call: Any) -> None:
        try:
            answer = self._read(_parse(self._method, call.result(), self._call_info))
        except Exception as error:
            self._fail(error)
            return
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            self.future.set_result(answer)

    def _fail(self, error: Exception) -> None:
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    def _stop(self, future: Future[Answer]) -> None:
        if future.cancelled() and self._call is not None:
            self._call.cancel()


def _serialize(request: Any, connection: Connection, call_info: CallInfo) -> bytes:
    """The request as bytes. Raises TooLarge, which gRPC would only report after sending."""
    limit = connection.max_message_mib * 2**20
    size = request.ByteSize()
    if size > limit:
        raise TooLarge(
            f"This request has {size / 2**20:.1f} MiB, more than the {connection.max_message_mib} MiB that "
            f"Connection(max_message_mib=…) allows. Raise it (at most 2047){fewer(call_info, ', or send')}."
        )
    return cast(bytes, request.SerializeToString())


def _parse(method: Method[Reply], payload: bytes, call_info: CallInfo) -> Reply:
    try:
        return cast(Reply, method.reply.FromString(payload))  # type: ignore[attr-defined]
    except DecodeError as error:
        raise ServerError(
            f"{call_info.target} sent {len(payload)} bytes that are not a reply to {call_info.call}: "
            f"{error}. Check that the address is TensorFlow Serving's gRPC port, without a proxy in between."
        ) from error


_CLOSED = "This client is closed. Create a new one, or call within its 'with' block."
