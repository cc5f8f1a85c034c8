"""A workspace: the folder in which runs leave everything, and which one run uses at a time.

<root>/
  pergola.json         that this is a workspace, and of which layout
  lock                 held by the run that is going on
  steps/<step>/<key>/  what a step made; <key>.json beside it says that it is whole
  runs/<id>/           run.json, settings.toml, report.html
  state/<name>/        what a run leaves for the next: the last split, training that was cut off
  experiments/<kind>/<key>/  results of `pergola compare-architectures` and `pergola tune`
  versions/<name>/<N>/ what each version was made of, see components/release/provenance.py
  models/<name>/<N>/   what is published
  models/<name>/release.json  which version is live, and which were before (store/release_record.py)
  models.config        the live versions, for servers: pergola's and the stock one poll it
  quarantine/<name>/<N>/  versions that were damaged
  mlflow.db, mlartifacts/
  requests/<name>/     what `pergola serve --log-requests` kept: TFRecord files
  feedback/<name>/     true labels for requests, and their images: a data set for scan.also
  gx/                  a project of Great Expectations, see components/data/gx_project/project.py
  drift/<name>/<N>/    drift checks: checks.json, drift.json, index.html
  serve.json           where `pergola serve` listens, while it does
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.disk import explained
from pergola.components.errors import InputError

LAYOUT = 2
SERVE_LOCK = "serve.lock"  # held by `pergola serve` while it runs

log = logging.getLogger(__name__)


class Workspace:
    """Paths below `root`, and the lock.

    tracking_uri: of the registry, by default a database in the workspace.
    """

    def __init__(self, root: Path, tracking_uri: str = "") -> None:
        self.root = root.absolute()
        self.steps = self.root / "steps"
        self.runs = self.root / "runs"
        self.models = self.root / "models"
        self.experiments = self.root / "experiments"
        self.scratch = self.root / "scratch"
        self.requests = self.root / "requests"
        self.versions = self.root / "versions"
        self.models_config = self.root / "models.config"
        own = f"sqlite:///{self.root / 'mlflow.db'}"
        self.tracking_uri = tracking_uri or own
        self.has_own_registry = self.tracking_uri == own

    def create(self) -> None:
        """Make the folders. Raises InputError when the place cannot be used."""
        marker = self._marker
        with explained(self.root):
            if self.root.exists() and not self.root.is_dir():
                raise InputError(f"Workspace {self.root} is a file. Name a folder with --workspace.")
            if self.root.is_dir() and not marker.exists() and any(self.root.iterdir()):
                raise InputError(
                    f"{self.root} is not empty and no workspace of pergola. Name another with --workspace."
                )
            for folder in (self.steps, self.runs, self.models, self.scratch):
                folder.mkdir(parents=True, exist_ok=True)
            if not marker.exists():
                records.write_atomic(marker, json.dumps({"layout": LAYOUT}) + "\n")
        self._upgrade()

    def require(self) -> None:
        """Raises InputError when there is no workspace here yet: neither ours nor a pipeline's volume."""
        if not self._marker.is_file() and not self.models.is_dir():
            raise InputError(f"There is no workspace at {self.root}. Make one with `pergola run DATASET`.")
        if self._marker.is_file() or any(self.versions.glob("*/*/pictures.parquet")):
            self._upgrade()  # a pipeline's volume has no marker until it was upgraded

    @property
    def _marker(self) -> Path:
        """The file that says that this is a workspace, and of which layout."""
        return self.root / "pergola.json"

    def _upgrade(self) -> None:
        """Bring what an older pergola made to today's layout. Raises InputError for what is newer or
        damaged."""
        layout = read_json(self._marker).get("layout") if self._marker.is_file() else 1
        if layout == LAYOUT:
            return
        if not isinstance(layout, int):
            raise InputError(
                f"{self._marker} is damaged: it does not say which layout this workspace has. "
                f'Write {{"layout": {LAYOUT}}} into it, or restore the workspace from a backup.'
            )
        if layout > LAYOUT:
            raise InputError(
                f"Workspace {self.root} has layout {layout}, which a newer pergola made; this one knows "
                f"{LAYOUT}. Upgrade pergola (docs/upgrading.md), or name another --workspace."
            )
        from pergola.components.upgrade import BACKUP, upgrade

        with self.lock("an upgrade"):
            upgrade(self.root, layout)
        log.warning("the workspace was upgraded from layout %d to %d; what was changed is kept in %s",
                    layout, LAYOUT, self.root / BACKUP.format(layout=layout))  # fmt: skip

    def create_scratch(self) -> Path:
        """The folder of temporary files."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        return self.scratch

    def request_log(self, model: str) -> str:
        """Prefix of the log of a model's requests."""
        return str(self.requests / model / "log")

    def state(self, model: str) -> Path:
        """What one run of a model leaves for the next."""
        return self.root / "state" / model

    def version(self, model: str, version: int) -> Path:
        """What a version was made of."""
        return self.versions / model / str(version)

    def drift(self, model: str, version: int) -> Path:
        """Drift checks of a version."""
        return self.root / "drift" / model / str(version)

    def feedback(self, model: str) -> Path:
        """What people said of requests to a model."""
        return self.root / "feedback" / model

    @contextmanager
    def lock(self, who: str, name: str = "lock") -> Iterator[None]:
        """Hold the workspace. Raises InputError at once when another process holds it.

        name: of the lock; another one holds only against those who want the same.
        The kernel lets go of the lock when its holder dies, however it dies.
        """
        with explained(self.root):
            file = open(self.root / name, "a+")  # noqa: SIM115
        with file:
            try:
                with explained(self.root):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another run"
                raise InputError(
                    f"Workspace {self.root} is in use by {holder}. Wait for it, or use another --workspace."
                ) from None
            file.truncate(0)
            file.write(f"{who} (process {os.getpid()})")
            file.flush()
            yield

    def run_record(self, run: str) -> dict[str, Any]:
        """What is written of a run; empty when there is none."""
        return read_json(self.runs / run / "run.json")

    def run_ids(self) -> list[str]:
        """Ids of the runs, oldest first."""
        return sorted(p.name for p in self.runs.glob("*") if (p / "run.json").is_file())

    def server(self) -> dict[str, Any]:
        """Where `pergola serve` listens ("grpc", "rest", "pid"); empty when it does not run."""
        record = read_json(self.root / "serve.json")
        whole = all(isinstance(record.get(key), str) for key in ("grpc", "rest"))
        return record if whole and self._is_locked(SERVE_LOCK) else {}

    def _is_locked(self, name: str) -> bool:
        """Whether a living process holds a lock."""
        try:
            with open(self.root / name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when the file is missing or broken."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
