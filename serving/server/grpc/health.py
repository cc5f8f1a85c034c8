"""grpc.health.v1 on the gRPC port, by --enable_grpc_healthcheck_service."""

from __future__ import annotations

from typing import Any

SERVICES = ("", "ModelService", "PredictionService")


class Health:
    """Reports SERVING for the stock server's services until `drain`."""

    def __init__(self) -> None:
        from grpc_health.v1 import health, health_pb2

        self._servicer = health.HealthServicer()
        for service in SERVICES:
            self._servicer.set(service, health_pb2.HealthCheckResponse.SERVING)

    def add_to(self, server: Any) -> None:
        """Register the service."""
        from grpc_health.v1 import health_pb2_grpc

        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def drain(self) -> None:
        """Report NOT_SERVING from now on, so that clients send no new requests."""
        self._servicer.enter_graceful_shutdown()
