"""Where a server listens: addresses, and whether they are free."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from pathlib import Path


def listen(address: str, port: int) -> socket.socket:
    """A TCP socket that listens on an IP address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=1024)


def grpc_addresses(address: str, port: int | None, unix: Path | None) -> tuple[str, ...]:
    """gRPC's addresses: of the Unix socket and of the port."""
    host = f"[{address}]" if ":" in address else address
    sockets = [f"unix:{unix}"] if unix else []
    ports = [f"{host}:{port}"] if port is not None else []
    return (*sockets, *ports)


def check_ports(address: str, ports: Mapping[str, int | None]) -> None:
    """Fail before minutes of loading if a port is in use. ports: by flag. Raises OSError."""
    for flag, port in ports.items():
        if not port:
            continue
        try:
            listen(address, port).close()
        except OSError as error:
            raise OSError(
                f"Port {port} of {flag} cannot be opened: {error.strerror}. Stop the server that uses it, or "
                f"choose another port"
            ) from error


def is_ip(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
