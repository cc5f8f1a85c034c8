"""What all steps of a pod share: the workspace's folders, settings from a table, how an artifact is written.

What outlives a pod has its place in the workspace, a volume:

    <workspace>/
      scratch/                 what helps the next scan
      models/<model>/<N>/      published versions
      versions/<model>/<N>/    what each was made of
      state/<model>/           the last split, the last run, training that was cut off
      drift/<model>/<N>/       looks at drift, if `pergola drift` has this workspace
      mlflow.db, mlartifacts/  the registry, unless MLFLOW_TRACKING_URI names a server
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pergola.components import records

T = TypeVar("T")

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Workspace:
    """The folders of a workspace volume."""

    root: Path

    @property
    def scratch(self) -> Path:
        """What helps the next scan."""
        return self.root / "scratch"

    @property
    def models(self) -> Path:
        """Published versions."""
        return self.root / "models"

    def state(self, model: str) -> Path:
        """What one run of a model leaves for the next."""
        return self.root / "state" / model

    def version(self, model: str, version: int) -> Path:
        """What a version was made of, see components/release/provenance.py."""
        return self.root / "versions" / model / str(version)

    def drift(self, model: str) -> Path:
        """Looks at drift of a model's versions, as `pergola drift` leaves them."""
        return self.root / "drift" / model

    def tracking_uri(self) -> str:
        """The registry: $MLFLOW_TRACKING_URI, otherwise a database in the workspace."""
        return os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{(self.root / 'mlflow.db').absolute()}"


def settings_of(cls: type[T], table: Mapping[str, Any], name: str) -> T:
    """A section of settings from a component's struct parameter."""
    return records.from_dict(cls, table, f"parameter {name}")


def made(out: str) -> Path:
    """An artifact's folder, made."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def replace(target: Path, source: Path) -> None:
    """Have `target` be a copy of `source`, whole or not at all."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
