"""One call to a server, with its deadline, its retries and its errors; a transport sends it (effects.py)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from pergola.serving.client.channel import Connection
from pergola.serving.client.effects import Attempt, Flow, IsConnected, Pause
from pergola.serving.client.errors import (
    CallInfo,
    Cancelled,
    ClientError,
    ServerError,
    TooLarge,
    fewer,
    from_rpc,
    status_of,
)
from pergola.serving.client.retry import Retry, may_retry

Reply = TypeVar("Reply")


class Method(NamedTuple, Generic[Reply]):
    """A remote procedure by its path; the reply's class is ours, the path TF-Serving's."""

    path: str  # "/tensorflow.serving.PredictionService/Predict"
    reply: type[Reply]
    idempotent: bool = True

    @property
    def name(self) -> str:
        """ "Predict"."""
        return self.path.rpartition("/")[2]


class Caller:
    """Calls methods until it is closed. Safe to use from many threads."""

    def __init__(
        self, connection: Connection, retry: Retry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connection, self._retry, self._clock = connection, retry, clock
        self.closed = False

    def call(self, method: Method[Reply], request: Any, call_info: CallInfo) -> Flow[Reply]:
        """The reply, or a ClientError within `call_info.timeout_s` seconds. Raises TooLarge at once."""
        return self._attempts(method, _serialize(request, self._connection, call_info), call_info)

    def _attempts(self, method: Method[Reply], payload: bytes, call_info: CallInfo) -> Flow[Reply]:
        ends, failures = self._clock() + call_info.timeout_s, 0
        while True:
            if self.closed:
                raise closed()
            metadata = self._connection.call_metadata()
            left = max(ends - self._clock(), 0.0)
            try:
                data = yield Attempt(method.path, payload, metadata, left, call_info)
            except grpc.RpcError as error:
                failures += 1
                pause_s = self._pause_s(error, method, failures, ends)
                if pause_s is None:
                    raise (yield from _error(error, call_info, failures)) from None
                yield Pause(pause_s)
            else:
                return _parse(method, data, call_info)

    def _pause_s(self, error: grpc.RpcError, method: Method[Any], failures: int, ends: float) -> float | None:
        if self.closed or not may_retry(error, method.idempotent):
            return None
        return self._retry.pause_s(failures, ends - self._clock())


def closed(details: str = "") -> Cancelled:
    """The error of a call that comes after the client was closed."""
    return Cancelled("This client is closed. Create a new one, or call within its 'with' block.", details)


def _error(error: grpc.RpcError, call_info: CallInfo, failures: int) -> Flow[ClientError]:
    connected, status = True, status_of(error)
    if status is not None and status[0] is grpc.StatusCode.DEADLINE_EXCEEDED:
        connected = yield IsConnected()
    return from_rpc(error, call_info._replace(attempts=failures), connected=connected)


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
