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
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pergola.serving.server.config.errors import BadRequest, DeadlineExpired, Overloaded, ShuttingDown
from pergola.serving.server.rest.api import Reply, RestApi, failure

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CORS = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)


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
    max_body_bytes: int = 1 << 30  # also after gunzip


class Application:
    """The ASGI application: reads bodies, handles requests in a pool of threads, writes replies."""

    def __init__(self, settings: RestSettings, api: RestApi, page: Callable[[], bytes]) -> None:
        self._settings = settings
        self._api = api
        self._page = page
        self._pool = ThreadPoolExecutor(settings.num_threads, "rest")
        self._room = settings.num_threads + settings.num_waiting
        self._inside = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        reply = await self._reply(scope, receive)
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *(CORS if self._settings.cors else ()),
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        path = scope["raw_path"].decode("ascii", "replace")
        if path == self._settings.metrics_path:
            return Reply(200, self._page(), "text/plain")
        if not path.lower().startswith("/v1/"):
            return Reply(404, b"", "text/html")
        if self._settings.cors and scope["method"] == "OPTIONS":
            return Reply(200, b"")
        if self.draining:
            return failure(ShuttingDown())
        if self._inside >= self._room:
            return failure(Overloaded())
        self._inside += 1
        try:
            async with asyncio.timeout(self._settings.timeout_s or None):
                body = await self._body(scope, receive)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._api.answer, scope["method"], path, body)
        except TimeoutError:
            return failure(DeadlineExpired())
        except BadRequest as error:
            return failure(error)
        finally:
            self._inside -= 1

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        headers = dict(scope["headers"])
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequest(message="The client went away.")
            part = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body_bytes:
                raise _too_large(self._settings.max_body_bytes)
            parts.append(part)
            more = message.get("more_body", False)
        body = b"".join(parts)
        if headers.get(b"content-encoding", b"").lower() == b"gzip":
            return _gunzip(body, self._settings.max_body_bytes)
        return body


class _Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a timeout for receiving a request's headers."""

    header_timeout_s = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection was closed."""
        self._disarm()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first bytes of a request have arrived."""
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        """The headers have arrived; the application limits the time for the body."""
        self._disarm()
        super().on_headers_complete()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class RestServer:
    """A bound port and the thread that serves it. Raises OSError when the port is taken."""

    def __init__(self, settings: RestSettings, application: Application) -> None:
        self._application = application
        self._socket = socket.create_server((settings.host, settings.port), backlog=1024)
        # Connections inherit this. asyncio would set it only for sockets created with IPPROTO_TCP,
        # and without it each reply waits 40 ms for the acknowledgement of its headers.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            application,
            http=type("Protocol", (_Protocol,), {"header_timeout_s": settings.timeout_s or 30.0}),
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


def _gunzip(body: bytes, limit: int) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    try:
        data = inflate.decompress(body, limit)
    except zlib.error as error:
        raise BadRequest(message=f"The gzip body cannot be read: {error}") from error
    if inflate.unconsumed_tail:
        raise _too_large(limit)
    if not inflate.eof:
        raise BadRequest(message="The gzip body is cut off.")
    return data


def _too_large(limit: int) -> BadRequest:
    return BadRequest(message=f"The request body is larger than {limit} bytes. Send it in parts.")
