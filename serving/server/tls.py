"""TLS for the gRPC port, from the stock server's ssl config file: PEM texts in a text proto."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pergola.serving.server.config import text_protos
from pergola.serving.server.config.errors import BadConfig


def credentials(path: Path) -> Any:
    """grpc.ServerCredentials from an SSLConfig file. Raises BadConfig.

    client_verify asks clients for a certificate, which custom_ca must have signed.
    """
    import grpc

    config = text_protos.read(path, "SSLConfig")
    for field in ("server_key", "server_cert"):
        if "-----BEGIN" not in getattr(config, field):
            raise BadConfig(
                message=f"{path}: {field} must hold a PEM text, '-----BEGIN …', not a file's name"
            )
    if config.client_verify and not config.custom_ca:
        raise BadConfig(
            message=f"{path}: client_verify needs custom_ca, the PEM of who signs client certificates"
        )
    try:
        return grpc.ssl_server_credentials(
            [(config.server_key.encode(), config.server_cert.encode())],
            root_certificates=config.custom_ca.encode() or None,
            require_client_auth=config.client_verify,
        )
    except ValueError as error:
        raise BadConfig(message=f"{path}: {error}") from error
