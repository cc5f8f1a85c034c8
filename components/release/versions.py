"""A model version as MLflow keeps it: its tags, and how they lie in the tables of a SQLite store.

Read so, without MLflow, the commonest question (which is the champion?) takes milliseconds for seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from pergola.components.errors import InputError

CHAMPION = "champion"  # the alias

RUN_KEY = "pergola.run"
SHA256 = "pergola.sha256"
EXPORT_KEY = "pergola.export_key"
PREVIOUS = "pergola.previous_champion"
STATUS = "pergola.status"
DECISION = "pergola.decision"

REGISTERED, PUBLISHED, WITHDRAWN = "registered", "published", "withdrawn"


@dataclass(frozen=True)
class Version:
    """A model version as the registry knows it."""

    model: str
    version: int
    run: str  # MLflow's id of the run
    sha256: str  # of the SavedModel
    export_key: str  # what the pipeline calls the export it came from; empty when not told
    status: str  # "registered", "published", "withdrawn"
    previous: int | None  # the champion before this one, once it was champion
    champion: bool


def of_tags(model: str, version: int, run: str, tags: Mapping[str, str], *, champion: bool) -> Version:
    """A version by what MLflow has noted of it."""
    return Version(
        model=model,
        version=version,
        run=run,
        sha256=tags.get(SHA256, ""),
        export_key=tags.get(EXPORT_KEY, ""),
        status=tags.get(STATUS, ""),
        previous=previous_of(tags),
        champion=champion,
    )


def sqlite_path(tracking_uri: str) -> Path | None:
    """Where a SQLite store lies; None for another kind of store."""
    if tracking_uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql")):
        return None
    if not tracking_uri.startswith("sqlite:///"):
        raise InputError(
            f"Tracking address '{tracking_uri}' is not known. "
            "Wanted sqlite:////absolute/path/mlflow.db or http://host:port."
        )
    return Path(tracking_uri.removeprefix("sqlite:///")).absolute()


def champion_in(path: Path, model: str) -> Version | None:
    """The champion by the tables of a store. Raises sqlite3.Error when they are not as expected."""
    with _opened(path) as database:
        row = database.execute(
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", (model, CHAMPION)
        ).fetchone()
        found = None if row is None else _version_from(database, model, int(row[0]))
        return None if found is None else replace(found, champion=True)


def version_in(path: Path, model: str, version: int) -> Version | None:
    """A version by the tables of a store. Raises as `champion_in` does."""
    with _opened(path) as database:
        return _version_from(database, model, version)


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10))


def _version_from(database: sqlite3.Connection, model: str, version: int) -> Version | None:
    row = database.execute(
        "SELECT run_id FROM model_versions WHERE name = ? AND version = ?", (model, version)
    ).fetchone()
    if row is None:
        return None
    tags = dict(
        database.execute(
            "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", (model, version)
        ).fetchall()
    )
    return of_tags(model, version, str(row[0]), tags, champion=False)


def previous_of(tags: Mapping[str, str]) -> int | None:
    """The champion before this version, by its tags."""
    text = tags.get(PREVIOUS, "")
    return int(text) if text.isdecimal() else None
