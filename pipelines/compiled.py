"""Compiled pipelines: the file that Kubeflow takes."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path

from components.errors import InputError
from components.records import nearest

PIPELINES = ("training", "retraining")


def compile_to(out: Path, pipeline: str = "training") -> Path:
    """Write a pipeline as YAML: its specification, then the Kubernetes settings as a second document.

    Raises InputError for an unknown pipeline, a file that is not .yaml, a folder that is not there.
    """
    if pipeline not in PIPELINES:
        raise InputError(f"There is no pipeline '{pipeline}'.{nearest(pipeline, PIPELINES)}")
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"{out} wants to end with .yaml: it is a pipeline in YAML.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"The folder of {out} does not exist. Make it first.")
    from kfp import compiler

    function = getattr(import_module(f"pipelines.{pipeline}"), pipeline)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiler.Compiler().compile(function, str(out))
    return out
