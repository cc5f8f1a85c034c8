"""TensorFlow Serving's `--ssl_config_file`, built from the three files of a Secret or of cert-manager."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pergola.components.errors import InputError

_FIELDS = {"server_key": "tls.key", "server_cert": "tls.crt", "custom_ca": "ca.crt"}


def write_ssl_config(certificates: Path, path: Path) -> None:
    """Write key, certificate and CA into one text proto that only its owner can read.

    certificates: a folder with tls.key, tls.crt and ca.crt (PEM). Clients must present a certificate
    of that CA. The server reads the file at start, so it must be restarted after a renewal.
    """
    lines = [f"{field}: {json.dumps(_pem(certificates / name))}\n" for field, name in _FIELDS.items()]
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write("".join(lines) + "client_verify: true\n")
    os.replace(partial, path)


def _pem(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise InputError(f"{path} is missing. The Secret must contain tls.key, tls.crt and ca.crt.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as PEM: {error}.") from None
    if "-----BEGIN " not in text:
        raise InputError(f"{path} holds no PEM: it does not contain '-----BEGIN '.")
    return text
