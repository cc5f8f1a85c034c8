"""What a schedule runs: looks whether it is time to train (new images, drift, age), or ends at once.

The decision is that of `pergola retrain` (components/release/retrain.py). A run that finds nothing new ends
green and says so; it costs a listing and, when file times moved, a scan.
"""

from __future__ import annotations

from typing import Any

from pergola.pipelines.kubeflow.cluster import ClusterSettings
from pergola.pipelines.kubeflow.compiler import Steps, pipeline
from pergola.pipelines.settings import Settings


def build(settings: Settings, cluster: ClusterSettings) -> Any:
    """The pipeline "retraining", with these settings as defaults of its parameters."""

    def body(steps: Steps) -> None:
        from kfp import dsl

        scan = steps.scan()
        with dsl.If(steps.changes(scan) == "changed", name="changed"):
            steps.all_after(scan)

    about = "Trains for new images or settings, drift or age, and else ends at once."
    return pipeline("retraining", about, settings, cluster, body)
