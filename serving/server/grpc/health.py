"""grpc.health.v1 on the gRPC port, by --enable_grpc_healthcheck_service."""

from __future__ import annotations

from typing import Any

from pergola.serving.server.grpc.methods import methods_of
from pergola.serving.server.grpc.methods import service as methods_handler

SERVICES = ("", "ModelService", "PredictionService")


class Health:
    """Reports SERVING for the stock server's services until `drain`."""

    def __init__(self) -> None:
        from grpc_health.v1 import health, health_pb2

        self._servicer = health.HealthServicer()
        for service in SERVICES:
            self._servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    def handler(self) -> Any:
        """The generic RPC handler for a gRPC server. Everyone may call it."""
        from grpc_health.v1 import health_pb2

        descriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
        return methods_handler(descriptor.full_name, methods_of(descriptor, self._servicer))

    def drain(self) -> None:
        """Report NOT_SERVING from now on, so that clients send no new requests."""
        self._servicer.enter_graceful_shutdown()
