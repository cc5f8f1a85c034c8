"""Versions read straight from the tables of an MLflow SQLite store. Only the registry imports this.

Importing MLflow takes 3 to 6 s; "which version is the champion?" takes a few milliseconds this way.
tests/components/release/test_registry_tables.py checks every answer against MLflow's own client.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from pergola.components.release.registry.versions import CHAMPION, RegisteredVersion, of_tags

_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
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


def numbers_in(path: Path, model: str) -> set[int]:
    """The numbers of the versions that were not deleted. Raises sqlite3.Error as `champion_in` does."""
    with _opened(path) as database:
        rows = database.execute(
            "SELECT version FROM model_versions WHERE name = ? AND current_stage != ?", (model, _DELETED)
        ).fetchall()
    return {int(row[0]) for row in rows}


def tag_in(path: Path, run: str, key: str) -> str:
    """A tag of a run; empty when it has none. Raises sqlite3.Error as `champion_in` does."""
    with _opened(path) as database:
        row = database.execute("SELECT value FROM tags WHERE run_uuid = ? AND key = ?", (run, key)).fetchone()
    return "" if row is None else str(row[0])


def problem_in(path: Path) -> str:
    """What SQLite finds wrong with a database, in its words; empty for a sound one, and while it is busy."""
    try:
        with _opened(path) as database:
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        return "" if "locked" in str(error) else str(error)
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else " ".join(found.split())


def relocate(path: Path, artifacts: Path) -> None:
    """Let a database that was copied from elsewhere find its artifacts where they are now.

    MLflow stores absolute addresses. Those of artifacts beside another database are rewritten, all at once.
    """
    with closing(sqlite3.connect(path, timeout=10)) as database, database:
        rows = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in rows:
            before = Path(str(old).removeprefix("file://"))
            if before.name != artifacts.name or not before.is_absolute() or _same(before, artifacts):
                continue
            for table, column in _ADDRESSES:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (str(artifacts), len(old) + 1, old, len(old) + 1, f"{old}/"),
                )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other


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
