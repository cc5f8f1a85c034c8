"""HTTP/1.1: uvicorn's protocol with a time limit for headers, and without upgrades."""

from __future__ import annotations

import asyncio

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def protocol(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """The protocol class. header_timeout_s: for a request's headers to arrive."""
    return type("Protocol", (_Protocol,), {"header_timeout_s": header_timeout_s})


class _Protocol(HttpToolsProtocol):
    """A request that offers another protocol (Java's HTTP client: HTTP/2) is answered in HTTP/1.1."""

    header_timeout_s = 30.0
    _timer: asyncio.TimerHandle | None = None
    _head = b""  # of a request that offers another protocol, without the offer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection was opened."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection was closed."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived."""
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                # The parser stops behind the headers, as if another protocol followed: once more without it.
                data = self._head + data[offer.args[0] :]
                if self._head.startswith(b"CONNECT "):
                    self.send_400_response("CONNECT is not served.")
                    return
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return

    def on_message_begin(self) -> None:
        """The first bytes of a request have arrived."""
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        """The headers have arrived; the application limits the time for the body."""
        if self.parser.should_upgrade():
            version = self.parser.get_http_version().encode()
            lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            self._head = b"%s %s HTTP/%s\r\n%s\r\n" % (
                self.parser.get_method(),
                self.url,
                version,
                b"".join(lines),
            )
            return
        self._disarm()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body has arrived."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
