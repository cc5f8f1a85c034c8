"""Compiles pipelines into the YAML file that Kubeflow runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError
from pergola.components.records import nearest
from pergola.pipelines.kubeflow.cluster import ClusterSettings

if TYPE_CHECKING:
    from pergola.components.settings import Settings

PIPELINES = ("training", "retraining")


def compile_to(
    out: Path,
    pipeline: str = "training",
    *,
    settings: Settings | None = None,
    cluster: ClusterSettings | None = None,
) -> Path:
    """Write a pipeline as YAML: its specification, then the Kubernetes settings as a second document.

    settings: defaults of the pipeline's parameters.  cluster: resources of its pods.
    Raises InputError for an unknown pipeline, a file that is not .yaml, or a missing folder.
    """
    if pipeline not in PIPELINES:
        raise InputError(f"There is no pipeline '{pipeline}'.{nearest(pipeline, PIPELINES)}")
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"Output file {out} must end with .yaml, which is the format of a compiled pipeline."
        )
    if not out.absolute().parent.is_dir():
        raise InputError(f"The folder of {out} does not exist. Create it first.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import compiler

        from pergola.components.settings import Settings

        function = build(pipeline, settings or Settings(), cluster or ClusterSettings())
        compiler.Compiler().compile(function, str(out))
    return out


def build(pipeline: str, settings: Settings, cluster: ClusterSettings) -> Any:
    """The pipeline of this name as a kfp pipeline function."""
    from pergola.pipelines.kubeflow import compiler

    builders = {"training": compiler.build, "retraining": compiler.build_retraining}
    return builders[pipeline](settings, cluster)
