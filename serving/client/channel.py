"""A gRPC channel to one or more servers, with TLS, token and keepalive."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from pergola.serving.client.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Tls:
    """TLS settings. `certificate` and `key` are for mutual TLS. All files are PEM."""

    ca: Path | None = None  # signs the server's certificate; None: the authorities that gRPC ships
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None  # the name in the server's certificate, if it is not the address

    def credentials(self) -> grpc.ChannelCredentials:
        """gRPC's credentials. Raises InvalidInput when a file cannot be read."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput(
                "Tls: certificate and key come together. Give both for mutual TLS, or neither."
            )
        return grpc.ssl_channel_credentials(_pem(self.ca), _pem(self.key), _pem(self.certificate))


@dataclass(frozen=True)
class Connection:
    """Settings of a channel. The defaults are our advice.

    A call in flight is probed after `keepalive_s` of silence and dropped `keepalive_timeout_s`
    later. gRPC servers close a connection at the fourth probe without data in between, so by default
    no call lasts long enough for a fourth.
    """

    tls: Tls | None = None
    token: str | Callable[[], str] | None = (
        None  # sent as "authorization: Bearer …"; a function is called for each request
    )
    metadata: tuple[tuple[str, str], ...] = ()  # sent with every call
    plain_token: bool = False  # allow the token without TLS (a mesh encrypts)
    max_message_mib: int = (
        1024  # of a request and of a response; gRPC's default of 4 MB is too small for images
    )
    keepalive_s: float | None = None  # None: a third of the client's timeout_s, at least 10
    keepalive_timeout_s: float = 10.0
    max_reconnect_s: float = 2.0  # longest pause between two tries to connect
    options: tuple[tuple[str, int | str], ...] = ()  # further gRPC channel arguments

    def __post_init__(self) -> None:
        if not 1 <= self.max_message_mib <= 2047:
            raise InvalidInput(
                f"max_message_mib is {self.max_message_mib}, expected 1 to 2047 (protobuf's limit)."
            )
        function = callable(self.token) and not inspect.iscoroutinefunction(self.token)
        if not (self.token is None or isinstance(self.token, str) or function):
            raise InvalidInput(
                f"token is of type {type(self.token).__name__}, expected text, or a function that returns it "
                "(no coroutine function: refresh the token in a task, and return the last one)."
            )

    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call."""
        if self.token is None:
            return self.metadata
        token = self.token() if callable(self.token) else self.token
        return (*self.metadata, ("authorization", f"Bearer {token}"))


def open_channel(target: str, connection: Connection, timeout_s: float = 30.0) -> grpc.Channel:
    """A channel to `target` for calls that last up to `timeout_s`. It connects on first use.

    With a name that resolves to many addresses ("dns:///leaves.models.svc:8500" of a headless
    Service), calls go to all of them in turn.
    """
    return channel_opener(target, connection, timeout_s)(grpc)


def channel_opener(target: str, connection: Connection, timeout_s: float) -> Callable[[Any], Any]:
    """What opens such a channel with `grpc` or `grpc.aio`. Settings are checked, and files read, now."""
    options = [*_options(connection, timeout_s), *connection.options]
    if connection.tls is None:
        _check_token(target, connection)
        return lambda api: api.insecure_channel(target, options=options)
    if connection.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", connection.tls.server_name))
    credentials = connection.tls.credentials()
    return lambda api: api.secure_channel(target, credentials, options=options)


def target_of(address: str | Sequence[str]) -> str:
    """gRPC's target for an address or several.

    "host:8500", "dns:///name:8500", "unix:/path", "unix:path", or a list of "host:port" each with
    an IP address. Raises InvalidInput for anything else.

    >>> target_of(["10.0.0.1:8500", "10.0.0.2:8500"])
    'ipv4:10.0.0.1:8500,10.0.0.2:8500'
    """
    if not isinstance(address, str):
        return _several(list(address))
    if address.startswith(("http://", "https://")):
        raise InvalidInput(
            f"'{address}' is the address of a REST server. The client speaks gRPC: give host:port, "
            "where TF-Serving's port is 8500 (with TLS: connection=Connection(tls=Tls(…)))."
        )
    if address.startswith(("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "xds:", "passthrough:")):
        return address
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidInput(
            f"'{address}' is not an address. Expected host:port, such as localhost:8500, or unix:/path."
        )
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidInput(
            f"'{address}' has more than one colon. An IPv6 address stands in brackets: [::1]:8500."
        )
    return address


def _several(addresses: list[str]) -> str:
    if not addresses:
        raise InvalidInput("No address. Expected host:port, or a list of them.")
    if len(addresses) == 1:
        return target_of(addresses[0])
    for address in addresses:
        target_of(address)
    plain = [a.removeprefix("ipv4:").removeprefix("ipv6:") for a in addresses]
    six = [a.startswith("[") for a in plain]
    if any(six) != all(six) or not all(_is_ip(a) for a in plain):
        raise InvalidInput(
            f"{', '.join(addresses)}: several addresses must be IP addresses of one family. "
            "For names, use one name that resolves to all servers (a headless Service): dns:///name:8500."
        )
    return f"{'ipv6' if six[0] else 'ipv4'}:{','.join(plain)}"


def _is_ip(address: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True


def _options(connection: Connection, timeout_s: float) -> list[tuple[str, int | str]]:
    keepalive_s = connection.keepalive_s or max(10.0, timeout_s / 3)
    limit = connection.max_message_mib * 2**20
    return [
        ("grpc.max_send_message_length", limit),
        ("grpc.max_receive_message_length", limit),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
        ("grpc.enable_retries", 0),  # serving/client/retry.py does that
        ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(connection.keepalive_timeout_s * 1000)),
        # gRPC 1.85 takes the shorter of the two only where both are set (seen: a minute otherwise).
        ("grpc.http2.ping_timeout_ms", int(connection.keepalive_timeout_s * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", int(connection.max_reconnect_s * 1000)),
        ("grpc.dns_min_time_between_resolutions_ms", 5000),
    ]


def _check_token(target: str, connection: Connection) -> None:
    """A token sent unencrypted is compromised."""
    if connection.token is not None and not connection.plain_token and not _is_local(target):
        raise InvalidInput(
            f"A token would travel to {target} unencrypted. Give Connection(tls=Tls(…)), or plain_token=True "
            "where something else encrypts (a service mesh)."
        )


def _is_local(target: str) -> bool:
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    hosts = re.sub(r"^(dns|ipv4|ipv6|passthrough):(//[^/]*/)?", "", target)
    return all(a.rpartition(":")[0] in ("localhost", "127.0.0.1", "[::1]") for a in hosts.split(","))


def _pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InvalidInput(f"Tls: cannot read {path}: {error.strerror}. Expected a PEM file.") from error
    if b"-----BEGIN" not in data:
        raise InvalidInput(f"Tls: {path} is not a PEM file: it has no '-----BEGIN' line.")
    return data
