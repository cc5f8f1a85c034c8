"""An empty registry, made once per process: MLflow takes seconds to make a database."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from pergola.components.release.registry.registry import Registry


def put_empty(workspace: Path) -> str:
    """Put a copy into a workspace's folder, which is created if it is missing. Gives its address."""
    workspace.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(_folder().name) / "mlflow.db", workspace / "mlflow.db")
    return f"sqlite:///{workspace / 'mlflow.db'}"


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Goes with the process; artifacts of all copies are stored in it."""
    folder = tempfile.TemporaryDirectory(prefix="pergola-registry-")
    Registry(f"sqlite:///{Path(folder.name) / 'mlflow.db'}")
    return folder
