"""Which version is the champion: answered in milliseconds where the store is a SQLite file.

Importing MLflow takes 3 to 6 s. A store that is not SQLite, and one whose tables are not as expected, is read
through MLflow.
"""

from __future__ import annotations

import sqlite3

from pergola.components.release.registry import tables
from pergola.components.release.registry.connection import sqlite_path
from pergola.components.release.registry.registry import Registry
from pergola.components.release.registry.versions import RegisteredVersion


def champion_of(tracking_uri: str, model: str) -> RegisteredVersion | None:
    """The champion of a model; None when there is none yet."""
    path = sqlite_path(tracking_uri)
    if path is None:
        return Registry(tracking_uri).champion(model)
    if not path.is_file():
        return None
    try:
        return tables.champion_in(path, model)
    except sqlite3.Error:
        return Registry(tracking_uri).champion(model)


def version_of(tracking_uri: str, model: str, version: int) -> RegisteredVersion | None:
    """A version of a model; None when it does not exist."""
    path = sqlite_path(tracking_uri)
    if path is not None and path.is_file():
        try:
            return tables.version_in(path, model, version)
        except sqlite3.Error:
            pass
    found = Registry(tracking_uri).versions(model)
    return next((item for item in found if item.version == version), None)


def numbers_of(tracking_uri: str, model: str) -> set[int]:
    """The numbers of a model's versions."""
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():
        return set()
    if path is not None:
        try:
            return tables.numbers_in(path, model)
        except sqlite3.Error:
            pass
    return {version.version for version in Registry(tracking_uri).versions(model)}
