"""The errors that the client raises.

    ClientError
    ├── InvalidInput       (ValueError)       the server, or the client itself, rejected the input
    │   └── TooLarge                          a message exceeds a size limit
    ├── NotFound           (LookupError)      no such model, version or label is being served
    ├── Unavailable        (ConnectionError)  no server answered, or it is overloaded; a retry may help
    ├── DeadlineExceeded   (TimeoutError)     no answer within the call's timeout
    ├── NotAllowed         (PermissionError)  the server rejected the certificate or token
    ├── Unsupported                           the server does not implement this call
    ├── Cancelled                             the call was cancelled
    └── ServerError                           the server failed while it handled the request

Each message says what came, what was expected and how to fix it; `details` is the server's own text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import grpc


class ClientError(Exception):
    """A request failed. `details` is the text from the server or gRPC, "" if there was none."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class InvalidInput(ClientError, ValueError):
    """The request is invalid: a wrong input, type, shape, signature, filter or setting."""


class TooLarge(InvalidInput):
    """A request or a response is larger than the client or the server allows."""


class NotFound(ClientError, LookupError):
    """The server does not serve this model, version or label at the moment."""


class Unavailable(ClientError, ConnectionError):
    """No server answered, or the server is overloaded."""


class DeadlineExceeded(ClientError, TimeoutError):
    """The call's timeout expired."""


class NotAllowed(ClientError, PermissionError):
    """The server rejected the client's credentials."""


class Unsupported(ClientError):
    """The server does not implement this call."""


class Cancelled(ClientError):
    """The call was cancelled by the caller, or because the client was closed."""


class ServerError(ClientError):
    """The server failed while it handled the request."""


class CallInfo(NamedTuple):
    """Which call went where, for error messages."""

    call: str  # "Predict", "GetModelStatus", …
    target: str
    model: str  # "leaves", "leaves version 3", "leaves label 'canary'"
    sent: Callable[[], str] = str  # "image: string (2,)"; evaluated only on errors
    timeout_s: float = 0.0
    attempts: int = 1


def from_status(code: grpc.StatusCode, details: str, call_info: CallInfo) -> ClientError:
    """The error for a gRPC status. `call_info.attempts` counts the attempts."""
    kind, text = _TABLE.get(code, (ServerError, _server_failed))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not is_size_error(details):
        kind, text = Unavailable, _unreachable
    return kind(text(details, call_info), details)


def is_size_error(details: str) -> bool:
    """Whether RESOURCE_EXHAUSTED means a message or tensor that is too large, not an overloaded server."""
    return "larger than max" in details or "OOM when allocating" in details


def from_rpc(error: grpc.RpcError, call_info: CallInfo, *, connected: bool = True) -> ClientError:
    """The error for a failed call. connected: whether there was a connection when it failed."""
    status = status_of(error)
    if status is None:
        return ServerError(f"{call_info.call} failed: {error!r}.", str(error))
    if status[0] is grpc.StatusCode.DEADLINE_EXCEEDED and not connected:
        return Unavailable(_unconnected(call_info), status[1])
    return from_status(*status, call_info)


def status_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str] | None:
    """Code and text of a failed call, of gRPC or of grpc.aio; None for an error that has none."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return None
    return error.code() or grpc.StatusCode.UNKNOWN, error.details() or ""


def fewer(call_info: CallInfo, before: str) -> str:
    """ ", or send fewer images at a time", where a request has several; else nothing."""
    described = call_info.sent()
    rows = re.search(r"\((\d+)", described)
    if rows is None or int(rows[1]) < 2:
        return ""
    return f"{before} fewer {'images' if described.startswith('image: string') else 'rows'} at a time"


def _rejected(details: str, call_info: CallInfo) -> str:
    described = call_info.sent()
    sent = f" Sent: {described}." if described else ""
    said = (details or "no reason given").rstrip(" .")
    return f"{call_info.target} refused {call_info.call} of {call_info.model}: {said}.{sent}"


def _not_served(details: str, call_info: CallInfo) -> str:
    return (
        f"{call_info.target} does not serve {call_info.model} ({details}). "
        "Check the name and version against status(), and that the version has finished loading."
    )


def _unreachable(details: str, call_info: CallInfo) -> str:
    if any(words in details for words in ("resolving", "resolution")):
        return (
            f"The name in the address {call_info.target} cannot be resolved: {details}. Check its spelling "
            "and the name service of this machine."
        )
    tries = "once" if call_info.attempts == 1 else f"{call_info.attempts} times"
    return (
        f"No answer from {call_info.target} to {call_info.call} of {call_info.model}, tried {tries} "
        f"within {call_info.timeout_s:g} s: {details or 'connection lost'}. "
        "Check the address and that the server is running, or raise timeout_s."
    )


def _unconnected(call_info: CallInfo) -> str:
    return (
        f"No connection to {call_info.target} for {call_info.call} of {call_info.model} within "
        f"{call_info.timeout_s:g} s: its name was not resolved, or nothing answered there. "
        "Check the address, the name service and that the server is running, or raise timeout_s."
    )


def _timed_out(details: str, call_info: CallInfo) -> str:
    return (
        f"{call_info.target} did not answer {call_info.call} of {call_info.model} within "
        f"{call_info.timeout_s:g} s ({details}). Raise timeout_s{fewer(call_info, ', or send')}."
    )


def _too_large(details: str, call_info: CallInfo) -> str:
    return (
        f"{call_info.call} of {call_info.model}: {details}. Raise Connection(max_message_mib=…) here or the "
        f"limit of the server{fewer(call_info, ', or send')}."
    )


def _denied(details: str, call_info: CallInfo) -> str:
    return (
        f"{call_info.target} did not accept {call_info.call} from this client: {details}. "
        "Check the token, and the certificate and key in Tls(…)."
    )


def _unsupported(details: str, call_info: CallInfo) -> str:
    return (
        f"{call_info.target} does not implement {call_info.call}: {details}. "
        "Check that the address is TensorFlow Serving's gRPC port (8500)."
    )


def _cancelled(details: str, call_info: CallInfo) -> str:
    return f"{call_info.call} of {call_info.model} was cancelled: {details}."


def _server_failed(details: str, call_info: CallInfo) -> str:
    return (
        f"{call_info.target} failed at {call_info.call} of {call_info.model}: {details}. "
        "See the server's log; the same request will probably fail again."
    )


_TABLE = {
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidInput, _rejected),
    grpc.StatusCode.FAILED_PRECONDITION: (InvalidInput, _rejected),
    grpc.StatusCode.OUT_OF_RANGE: (InvalidInput, _rejected),
    grpc.StatusCode.ALREADY_EXISTS: (InvalidInput, _rejected),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (TooLarge, _too_large),
    grpc.StatusCode.NOT_FOUND: (NotFound, _not_served),
    grpc.StatusCode.UNAVAILABLE: (Unavailable, _unreachable),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, _timed_out),
    grpc.StatusCode.PERMISSION_DENIED: (NotAllowed, _denied),
    grpc.StatusCode.UNAUTHENTICATED: (NotAllowed, _denied),
    grpc.StatusCode.UNIMPLEMENTED: (Unsupported, _unsupported),
    grpc.StatusCode.CANCELLED: (Cancelled, _cancelled),
}
