"""Which failed calls are retried, and when."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from pergola.serving.client.errors import is_size_error, status_of

_NEVER_SENT = (
    "failed to connect to all addresses",
    "connections to all backends failing",
    "DNS resolution failed",
    "Name resolution",
    "empty address",
)
_CUT = ("Stream removed", "Received RST_STREAM", "Socket closed", "Connection reset")
_OURS = ("Locally cancelled", "Channel closed")  # as against a server that shut down
_LAST_CHANCE_S = 0.01  # with less time left, no attempt can succeed


@dataclass(frozen=True)
class Retry:
    """Exponential backoff with full jitter, within the deadline of the call.

    The n-th pause is drawn from [0, min(max_pause_s, first_pause_s * 2 ** n)], so that the clients
    of a restarted server do not all call at once (AWS, "Exponential Backoff and Jitter").
    `max_attempts=1` never retries.
    """

    max_attempts: int = 1000
    first_pause_s: float = 0.05
    max_pause_s: float = 2.0

    def pause_s(
        self, failures: int, remaining_s: float, draw: Callable[[], float] = random.random
    ) -> float | None:
        """Seconds to wait after that many failures; None when another attempt is pointless."""
        if failures >= self.max_attempts or remaining_s < _LAST_CHANCE_S:
            return None
        return draw() * min(self.max_pause_s, self.first_pause_s * 2.0 ** min(failures, 30), remaining_s)


NO_RETRY = Retry(max_attempts=1)


def may_retry(error: grpc.RpcError, idempotent: bool) -> bool:
    """Whether a retry can help and is safe.

    An idempotent request is retried when no server answered, the server was overloaded or the connection
    broke; any other only when it certainly was never sent.
    """
    status = status_of(error)
    if status is None:
        return False
    code, details = status
    if not idempotent:
        return code is grpc.StatusCode.UNAVAILABLE and details.startswith(_NEVER_SENT)
    if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL):
        return details.startswith(_CUT)
    if code is grpc.StatusCode.CANCELLED:
        return not details.startswith(_OURS)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return not is_size_error(details)
    return code is grpc.StatusCode.UNAVAILABLE
