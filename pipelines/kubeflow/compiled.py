"""Compiled pipelines: the file that Kubeflow takes."""

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

    settings: defaults of the steps' parameters.  cluster: what its pods get.
    Raises InputError for an unknown pipeline, a file that is not .yaml, a folder that is not there.
    """
    if pipeline not in PIPELINES:
        raise InputError(f"There is no pipeline '{pipeline}'.{nearest(pipeline, PIPELINES)}")
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"{out} wants to end with .yaml: it is a pipeline in YAML.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"The folder of {out} does not exist. Make it first.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kfp import compiler

        from pergola.components.settings import Settings

        function = build(pipeline, settings or Settings(), cluster or ClusterSettings())
        compiler.Compiler().compile(function, str(out))
    return out


def build(pipeline: str, settings: Settings, cluster: ClusterSettings) -> Any:
    """A pipeline as kfp has it."""
    from pergola.pipelines.kubeflow import compiler

    builders = {"training": compiler.build, "retraining": compiler.build_retraining}
    return builders[pipeline](settings, cluster)
