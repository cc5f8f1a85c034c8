"""Versions read straight from the tables of an MLflow SQLite store. Only registry.py imports this.

Importing MLflow takes 3 to 6 s; "which version is the champion?" takes a few milliseconds this way.
tests/components/release/test_registry_tables.py checks every answer against MLflow's own client.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pergola.components.release.versions import CHAMPION, RegisteredVersion, of_tags

_DELETED = "Deleted_Internal"  # the stage that MLflow gives a deleted version, whose row and tags stay


def champion_in(path: Path, model: str) -> RegisteredVersion | None:
    """The champion. Raises sqlite3.Error when the tables are not as expected."""
    with _opened(path) as database:
        row = database.execute(
            "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?", (model, CHAMPION)
        ).fetchone()
        found = None if row is None else _version_from(database, model, int(row[0]))
        return None if found is None else replace(found, champion=True)


def version_in(path: Path, model: str, version: int) -> RegisteredVersion | None:
    """A version that was not deleted, `champion` included. Raises sqlite3.Error as `champion_in` does."""
    champion = champion_in(path, model)
    if champion is not None and champion.version == version:
        return champion
    with _opened(path) as database:
        return _version_from(database, model, version)


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10))


def _version_from(database: sqlite3.Connection, model: str, version: int) -> RegisteredVersion | None:
    row = database.execute(
        "SELECT run_id FROM model_versions WHERE name = ? AND version = ? AND current_stage != ?",
        (model, version, _DELETED),
    ).fetchone()
    if row is None:
        return None
    tags = dict(
        database.execute(
            "SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", (model, version)
        ).fetchall()
    )
    return of_tags(model, version, str(row[0]), tags, champion=False)
