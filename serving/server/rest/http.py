"""The REST API on a port: an ASGI application under uvicorn, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import uvicorn

from pergola.serving.server.auth import Tokens
from pergola.serving.server.config.errors import (
    BadRequest,
    DeadlineExpired,
    Overloaded,
    ServingError,
    ShuttingDown,
    Unauthenticated,
)
from pergola.serving.server.rest.api import Reply, RestApi, failure
from pergola.serving.server.rest.protocol import protocol
from pergola.serving.server.sockets import listen

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

HEALTH = "/healthz"
CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)
_INFLATE_BYTES = 16 << 20  # inflated at a time


@dataclass(frozen=True)
class RestSettings:
    """Where the REST server listens, and its limits."""

    host: str = "0.0.0.0"
    port: int = 0  # 0: any free one
    num_threads: int = 8
    num_waiting: int = 128
    timeout_s: float = 30.0  # for a body to arrive
    cors: bool = False
    metrics_path: str | None = None
    max_body_bytes: int = 1 << 30
    max_inflated_bytes: int = 100 << 20  # of a gzip body, as in the stock server
    max_held_bytes: int = 2 << 30  # of all bodies, also of those that are still arriving


class HeldBytes:
    """The bytes of one body, counted against the limit for all of them. Released at the end of the block."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._size = 0

    def add(self, size: int) -> None:
        """Count more bytes. Raises Overloaded."""
        self._budget.take(size)
        self._size += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._budget.take(-self._size)


class ByteBudget:
    """A limit for the bytes that all requests hold together. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take bytes, or give them back where `size` is negative. Raises Overloaded."""
        with self._lock:
            if size > 0 and self._taken + size > self._limit:
                raise Overloaded()
            self._taken += size


class Application:
    """The ASGI application: reads bodies, handles requests in a pool of threads, writes replies."""

    def __init__(
        self, settings: RestSettings, api: RestApi, page: Callable[[], bytes], tokens: Tokens | None = None
    ) -> None:
        self._settings = settings
        self._api = api
        self._page = page
        self._tokens = tokens or Tokens()
        self._pool = ThreadPoolExecutor(settings.num_threads, "rest")
        self._room = settings.num_threads + settings.num_waiting
        self._inside = 0  # requests whose body is complete
        self._budget = ByteBudget(settings.max_held_bytes)
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        reply = await self._reply(scope, receive)
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *([(b"www-authenticate", b"Bearer")] if reply.status == 401 else ()),
            *(CORS if self._settings.cors else ()),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path, headers = scope["raw_path"].decode("ascii", "replace"), dict(scope["headers"])
        if path == HEALTH:
            return Reply(503 if self.draining else 200, b"", "text/plain")
        if scope["method"] == "OPTIONS" and (self._settings.cors or b"origin" in headers):
            return Reply(200, b"")
        if refusal := self._tokens.refusal(headers.get(b"authorization")):
            return failure(Unauthenticated(message=refusal))
        if path == self._settings.metrics_path:
            return Reply(200, self._page(), "text/plain")
        if not path.lower().startswith("/v1/"):
            return Reply(404, b"", "text/html")
        if self.draining:
            return failure(ShuttingDown())
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("ascii", "replace")
        try:
            with HeldBytes(self._budget) as held:
                async with asyncio.timeout(self._settings.timeout_s or None):
                    body = await self._body(receive, held)
                gzipped = b"gzip" in headers.get(b"content-encoding", b"").lower()
                return await self._answer(scope["method"], path, body, held if gzipped else None)
        except TimeoutError:
            return failure(DeadlineExpired())
        except ServingError as error:
            return failure(error)

    async def _answer(self, method: str, path: str, body: bytes, gzipped: HeldBytes | None) -> Reply:
        """The reply to a request that has arrived. gzipped: where to count the bytes of the inflated body."""
        if self._inside >= self._room:
            raise Overloaded()
        self._inside += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._work, method, path, body, gzipped)
        finally:
            self._inside -= 1

    def _work(self, method: str, path: str, body: bytes, gzipped: HeldBytes | None) -> Reply:
        if gzipped is not None:
            body = _gunzip(body, self._settings.max_inflated_bytes, gzipped)
        return self._api.answer(method, path, body)

    async def _body(self, receive: Receive, held: HeldBytes) -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequest(message="The client went away.")
            part = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body_bytes:
                raise _too_large(self._settings.max_body_bytes)
            held.add(len(part))
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)


class RestServer:
    """A bound port and the thread that serves it. Raises OSError when the port is taken."""

    def __init__(self, settings: RestSettings, application: Application) -> None:
        self._application = application
        self._socket = listen(settings.host, settings.port)
        # Connections inherit this. asyncio would set it only for sockets created with IPPROTO_TCP,
        # and without it each reply waits 40 ms for the acknowledgement of its headers.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            application,
            http=protocol(settings.timeout_s or 30.0),
            loop="asyncio",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=True,
            timeout_keep_alive=75,
        )
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._serve, name="rest", daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Accept requests."""
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Stop listening, finish what is in flight."""
        self._application.draining = True
        self._server.config.timeout_graceful_shutdown = max(1, int(grace_s))
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(grace_s + 1)
        self._socket.close()
        self._application.close()

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._server._serve([self._socket]))


def _gunzip(body: bytes, limit: int, held: HeldBytes) -> bytes:
    """The inflated body. Raises BadRequest or Overloaded."""
    inflate, parts, size = zlib.decompressobj(wbits=31), [], 0
    while body and not inflate.eof:
        try:
            part = inflate.decompress(body, _INFLATE_BYTES)
        except zlib.error as error:
            raise BadRequest(message=f"The gzip body cannot be read: {error}") from error
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        held.add(len(part))
        parts.append(part)
        body = inflate.unconsumed_tail
    if not inflate.eof:
        raise BadRequest(message="The gzip body is cut off.")
    return b"".join(parts)


def _too_large(limit: int) -> BadRequest:
    return BadRequest(message=f"The request body is larger than {limit} bytes. Send it in parts.")
