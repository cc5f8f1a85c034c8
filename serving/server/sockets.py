"""Where a server listens: addresses, and whether they are free."""

from __future__ import annotations

import socket

from pergola.serving.server.options import ServerOptions


def listen(address: str, port: int) -> socket.socket:
    """A TCP socket that listens on an IP address. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=1024)


def grpc_addresses(chosen: ServerOptions) -> tuple[str, ...]:
    """gRPC's addresses: of the Unix socket and of the port."""
    host = f"[{chosen.bind_address}]" if ":" in chosen.bind_address else chosen.bind_address
    sockets = [f"unix:{chosen.grpc_socket}"] if chosen.grpc_socket else []
    ports = [f"{host}:{chosen.grpc_port}"] if chosen.grpc_port is not None else []
    return (*sockets, *ports)


def check_ports(chosen: ServerOptions) -> None:
    """Fail before minutes of loading if a port is in use. Raises OSError."""
    for flag, port in (("--port", chosen.grpc_port), ("--rest_api_port", chosen.rest_port)):
        if not port:
            continue
        try:
            listen(chosen.bind_address, port).close()
        except OSError as error:
            raise OSError(
                f"Port {port} of {flag} cannot be opened: {error.strerror}. Stop the server that uses it, or "
                f"choose another port"
            ) from error
