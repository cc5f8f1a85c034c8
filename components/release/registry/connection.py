"""Opens the registry: MLflow's client on a SQLite file or a server, locks, errors. EDGE: MLflow."""

from __future__ import annotations

import fcntl
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.disk import explained
from pergola.components.errors import InputError, StepError
from pergola.components.release.registry import tables

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ARTIFACTS = "mlartifacts"
_UNREACHABLE = re.compile(
    r"API request to (\w+://[^/ ]+).* [Ff]ailed to (?:establish a new connection|resolve .*?): (.+?)[\"')]*$",
    re.S,
)


def sqlite_path(tracking_uri: str) -> Path | None:
    """The file of a SQLite store; None for an MLflow server or another database."""
    if tracking_uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql")):
        return None
    if not tracking_uri.startswith("sqlite:///"):
        raise InputError(
            f"Unknown tracking address '{tracking_uri}'. "
            "Expected sqlite:////absolute/path/mlflow.db or http://host:port."
        )
    return Path(tracking_uri.removeprefix("sqlite:///")).absolute()


def open_client(tracking_uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """MLflow's client, and the id of the experiment, which is created if missing. Raises StepError."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"
    )  # 14 s; MLflow's own 7 are over four minutes
    path = sqlite_path(tracking_uri)
    with warnings.catch_warnings(), _locked(path):
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own, about SQLAlchemy, on import
        return _connect(tracking_uri, experiment, path)


def _connect(tracking_uri: str, experiment: str, path: Path | None) -> tuple[MlflowClient, str]:
    from mlflow.tracking import MlflowClient

    if path is not None and path.is_file() and (problem := tables.problem_in(path)):
        raise StepError(
            f"The registry {path} is damaged: {problem}. Restore it from a backup (docs/operations.md), or "
            "move it away: the next `pergola run` registers the published versions again."
        )
    with step_errors():
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            if path is not None and found.artifact_location != str(path.parent / ARTIFACTS):
                tables.relocate(path, path.parent / ARTIFACTS)
            return client, str(found.experiment_id)
        location = None if path is None else str(path.parent / ARTIFACTS)
        return client, str(client.create_experiment(experiment, artifact_location=location))


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """MLflow fails when two processes create one database at the same time."""
    if path is None:
        yield
        return
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.with_name(f".{path.name}.lock"), "ab")  # noqa: SIM115
    with lock:
        with explained(path.parent):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def step_errors() -> Iterator[None]:
    """Turn errors of MLflow and its database into a StepError of one sentence."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # the library behind MLflow's tables

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        unreachable = _UNREACHABLE.search(str(error))
        if unreachable:
            raise StepError(
                f"No MLflow answers at {unreachable[1]}: {unreachable[2]}. "
                "Check the server and the tracking address."
            ) from error
        text = str(error).strip().splitlines()
        first = next((line for line in text if line.strip()), type(error).__name__)
        raise StepError(f"The registry (MLflow) failed: {first[:300]}") from error


def artifacts_of(path: Path, run: str) -> Path:
    """The folder of a run's artifacts beside a SQLite store."""
    return path.parent / ARTIFACTS / run / "artifacts"
