"""What can go wrong when a server is asked, as the client raises it.

    ClientError
    ├── InvalidInput       (ValueError)       the server, or the client before it, refused what was sent
    │   └── TooLarge                          a message is over a size limit
    ├── NotFound           (LookupError)      no such model, version or label is being served
    ├── Unavailable        (ConnectionError)  nobody answered, or the server is full; sending again may help
    ├── DeadlineExceeded   (TimeoutError)     no answer within the time that the call allowed
    ├── NotAllowed         (PermissionError)  the server wants another certificate or token
    ├── Unsupported                           the server does not know this call
    ├── Cancelled                             the call was given up
    └── ServerError                           the server broke while it worked

Each message says what came, what was wanted and what to do; `details` is the server's own text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc


class ClientError(Exception):
    """A request got no answer. `details` is what the server (or gRPC) said, "" when it said nothing."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class InvalidInput(ClientError, ValueError):
    """What was sent cannot be used: a wrong input, type, shape, signature, filter or setting."""


class TooLarge(InvalidInput):
    """A request or an answer is larger than the client or the server allows."""


class NotFound(ClientError, LookupError):
    """The server does not serve this model, version or label (now)."""


class Unavailable(ClientError, ConnectionError):
    """Nobody answered, or the server refused because it is full."""


class DeadlineExceeded(ClientError, TimeoutError):
    """The time that the call allowed ran out."""


class NotAllowed(ClientError, PermissionError):
    """The server does not accept who is asking."""


class Unsupported(ClientError):
    """The server does not offer this call."""


class Cancelled(ClientError):
    """The call was given up, by the caller or by a client that was closed."""


class ServerError(ClientError):
    """The server failed while it worked on the request."""


@dataclass(frozen=True)
class Question:
    """What was asked of whom, for messages."""

    call: str  # "Predict", "GetModelStatus", …
    target: str
    model: str  # "leaves", "leaves version 3", "leaves label 'canary'"
    sent: Callable[[], str] = str  # "image: string (2,)"; asked for when something went wrong
    timeout_s: float = 0.0
    attempts: int = 1


def from_status(code: grpc.StatusCode, details: str, question: Question) -> ClientError:
    """The error for a gRPC status. `question.attempts` says how often it was tried."""
    kind, text = _TABLE.get(code, (ServerError, _broke))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and not is_about_size(details):
        kind, text = Unavailable, _away
    return kind(text(details, question), details)


def is_about_size(details: str) -> bool:
    """Whether "resource exhausted" means a message or a tensor that is too big, not a server that is full."""
    return "larger than max" in details or "OOM when allocating" in details


def from_rpc(error: grpc.RpcError, question: Question) -> ClientError:
    """The error for a failed call."""
    if isinstance(error, grpc.Call):
        return from_status(error.code() or grpc.StatusCode.UNKNOWN, error.details() or "", question)
    return ServerError(f"{question.call} failed: {error!r}.", str(error))


def _refused(details: str, question: Question) -> str:
    described = question.sent()
    sent = f" Sent: {described}." if described else ""
    said = (details or "it said nothing").rstrip(" .")
    return f"{question.target} refused {question.call} of {question.model}: {said}.{sent}"


def _missing(details: str, question: Question) -> str:
    return (
        f"{question.target} does not serve {question.model} ({details}). "
        "Check the name and version against status(), and that the version has finished loading."
    )


def _away(details: str, question: Question) -> str:
    tries = "once" if question.attempts == 1 else f"{question.attempts} times"
    return (
        f"No answer from {question.target} to {question.call} of {question.model}, tried {tries} "
        f"within {question.timeout_s:g} s: {details or 'connection lost'}. "
        "Check the address and that the server runs, or allow more time with timeout_s."
    )


def _late(details: str, question: Question) -> str:
    return (
        f"{question.target} did not answer {question.call} of {question.model} within "
        f"{question.timeout_s:g} s ({details}). Allow more with timeout_s, or send fewer images at a time."
    )


def _large(details: str, question: Question) -> str:
    return (
        f"{question.call} of {question.model}: {details}. Send fewer images at a time, or raise "
        "Connection(max_message_mib=…) here or the limit of the server."
    )


def _denied(details: str, question: Question) -> str:
    return (
        f"{question.target} did not accept {question.call} from this client: {details}. "
        "Check the token, and the certificate and key in Tls(…)."
    )


def _unknown_call(details: str, question: Question) -> str:
    return (
        f"{question.target} does not know {question.call}: {details}. "
        "Is it TensorFlow Serving's gRPC port (8500), and not another service?"
    )


def _given_up(details: str, question: Question) -> str:
    return f"{question.call} of {question.model} was given up: {details}."


def _broke(details: str, question: Question) -> str:
    return (
        f"{question.target} failed at {question.call} of {question.model}: {details}. "
        "See the server's log; the same request will probably fail again."
    )


_TABLE = {
    grpc.StatusCode.INVALID_ARGUMENT: (InvalidInput, _refused),
    grpc.StatusCode.FAILED_PRECONDITION: (InvalidInput, _refused),
    grpc.StatusCode.OUT_OF_RANGE: (InvalidInput, _refused),
    grpc.StatusCode.ALREADY_EXISTS: (InvalidInput, _refused),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (TooLarge, _large),
    grpc.StatusCode.NOT_FOUND: (NotFound, _missing),
    grpc.StatusCode.UNAVAILABLE: (Unavailable, _away),
    grpc.StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, _late),
    grpc.StatusCode.PERMISSION_DENIED: (NotAllowed, _denied),
    grpc.StatusCode.UNAUTHENTICATED: (NotAllowed, _denied),
    grpc.StatusCode.UNIMPLEMENTED: (Unsupported, _unknown_call),
    grpc.StatusCode.CANCELLED: (Cancelled, _given_up),
}
