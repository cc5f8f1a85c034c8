"""What `pergola serve` offers, and to whom: by default predictions, to this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from pergola.components import records
from pergola.components.errors import InputError
from pergola.serving.server.sockets import is_ip
from pergola.serving.wire.contract import TOKEN_VARIABLE

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"


@dataclass(frozen=True)
class Exposure:
    """host: an IP address of this machine; "" for the default. The rest is off unless it is wanted.

    token_file: tokens, one a line; callers send one of them. None: the environment's PERGOLA_SERVER_TOKEN.
    """

    host: str = ""
    reload: bool = False
    profiler: bool = False
    metrics: bool = False
    token_file: Path | None = None

    def checked(self, stock_server: bool) -> Exposure:
        """The exposure as it will be. Raises InputError for an unknown address or token, and for what the
        stock server cannot do."""
        if self.host and not is_ip(self.host):
            raise InputError(
                f"--host {self.host} is not an IP address. Give 127.0.0.1 for this machine, 0.0.0.0 for "
                "every network interface, or the address of one."
            )
        token = self.token
        if not stock_server:
            return replace(self, host=self.host or LOOPBACK)
        if self.host not in ("", EVERYWHERE):
            raise InputError(
                "The stock server listens on every network interface. Leave out --host or --stock-server."
            )
        if token:
            raise InputError(
                f"The stock server cannot check tokens. Leave out --stock-server, or --token-file and "
                f"{TOKEN_VARIABLE}, and put a proxy in front."
            )
        return replace(self, host=EVERYWHERE, reload=True)

    def warnings(self) -> list[str]:
        """One sentence for each risk that was chosen."""
        found = []
        if not ipaddress.ip_address(self.host).is_loopback and not self.token:
            found.append(f"Everybody who reaches {self.host} can send requests: there is no token.")
        if self.reload:
            found.append("Callers can change which models are served.")
        return found

    def flags(self, folder: Path, stock_server: bool) -> list[str]:
        """Flags of the server. A monitoring file is written to `folder` if there are metrics."""
        found = [f"--enable_profiler={str(self.profiler).lower()}"]
        if self.metrics:
            records.write_atomic(folder / "monitoring.config", "prometheus_config { enable: true }\n")
            found.append(f"--monitoring_config_file={folder / 'monitoring.config'}")
        if not stock_server:
            found += [f"--bind_address={self.host}", f"--enable_model_reload={str(self.reload).lower()}"]
        if self.token_file is not None:
            found.append(f"--token_file={self.token_file.absolute()}")
        return found

    @property
    def token(self) -> str | None:
        """The token that this machine's clients send. Raises InputError."""
        return read_token(self.token_file)

    def address(self, port: int) -> str:
        """Where the server listens."""
        return _joined(self.host, port)

    def local_address(self, port: int) -> str:
        """Where this machine reaches it."""
        return _joined({EVERYWHERE: LOOPBACK, "::": "::1"}.get(self.host, self.host), port)

    def free_port(self, port: int, flag: str) -> int:
        """The port, or a free one for 0. Raises InputError if it is in use."""
        with socket.socket(self._family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, port))
            except OSError as error:
                raise InputError(
                    f"Port {port} cannot be used: {error.strerror}. Stop the program that uses "
                    f"it, or choose another with {flag}."
                ) from None
            except OverflowError:
                raise InputError(f"{flag} {port} is not a port. Give a number from 0 to 65535.") from None
            return int(probe.getsockname()[1])

    def answers(self, port: int) -> bool:
        """Whether something listens there."""
        host, _, _ = self.local_address(port).rpartition(":")
        with socket.socket(self._family) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((host.strip("[]"), port)) == 0

    @property
    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


def read_token(path: Path | None) -> str | None:
    """The first token of a file, else the environment's PERGOLA_SERVER_TOKEN. Raises InputError."""
    if path is None:
        return next(iter(os.environ.get(TOKEN_VARIABLE, "").split()), None)
    try:
        return path.read_text(encoding="utf-8").split()[0]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the token file {path}: {error}.") from None
    except IndexError:
        raise InputError(f"The token file {path} is empty. Write a token into it.") from None


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
