"""A client of TensorFlow Serving that needs no TensorFlow; see docs/client.md.

from pergola.serving.client import Client

with Client("dns:///leaves.models.svc:8500", model="leaves") as client:
    result = client.classify_images(["a.jpg", "b.png"])
    result.labels, result.probability, result.version
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pergola.serving.client.channel import Connection, Tls
from pergola.serving.client.client import Client
from pergola.serving.client.errors import (
    Cancelled,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NotAllowed,
    NotFound,
    ServerError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from pergola.serving.client.results import (
    Classification,
    Metadata,
    Prediction,
    ServedModel,
    TensorSpec,
    VersionStatus,
)
from pergola.serving.client.retry import NO_RETRY, Retry

if TYPE_CHECKING:
    from pergola.serving.client.async_client import AsyncClient
    from pergola.serving.client.request_log import ClientLog

__all__ = [
    "NO_RETRY",
    "AsyncClient",
    "Cancelled",
    "Classification",
    "Client",
    "ClientError",
    "ClientLog",
    "Connection",
    "DeadlineExceeded",
    "InvalidInput",
    "Metadata",
    "NotAllowed",
    "NotFound",
    "Prediction",
    "Retry",
    "ServedModel",
    "ServerError",
    "TensorSpec",
    "Tls",
    "TooLarge",
    "Unavailable",
    "Unsupported",
    "VersionStatus",
]


_LATER = {"AsyncClient": "async_client", "ClientLog": "request_log"}  # which most programs need not load


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
