"""Artifact of the smoke test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pergola.components.artifacts.record import Record


@dataclass(frozen=True)
class SmokeTest(Record):
    """The answers of a real server, in a separate process, to the golden requests."""

    FILE: ClassVar[str] = "smoke_test.json"

    ok: bool
    reason: str  # empty if ok
    num_requests: int
    max_difference: float  # largest |served - golden| probability
    latency_ms: float | None = None  # 95th percentile of requests with one image; varies from run to run
    latency_interval_ms: tuple[float, float] | None = None  # 95%
    num_timed: int = 0  # requests that were timed
    num_bytes: int | None = None  # of the SavedModel
