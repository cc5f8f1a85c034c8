"""What a schedule runs: looks whether anything changed since the last run, then trains, or ends at once.

A run that finds the same pictures and the same settings ends green and says so; it costs a listing and,
when file times moved, a scan.
"""

from __future__ import annotations

from typing import Any

from pipelines.cluster import ClusterSettings
from pipelines.config import Settings
from pipelines.training import Steps, pipeline


def build(settings: Settings, cluster: ClusterSettings) -> Any:
    """The pipeline "retraining", with these settings as defaults of its parameters."""

    def body(steps: Steps) -> None:
        from kfp import dsl

        scan = steps.scan()
        with dsl.If(steps.changes(scan) == "changed", name="changed"):
            steps.all_after(scan)

    about = "Trains when pictures or settings changed since the last run."
    return pipeline("retraining", about, settings, cluster, body)
