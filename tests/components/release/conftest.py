"""A store of versions, and syncs that follow it."""

import time

import pytest

from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.sync import Sync, SyncSettings
from tests.support.versions import saved_model


@pytest.fixture
def models(tmp_path):
    """A store with three versions of one model, the first one stable."""
    (tmp_path / "store").mkdir()
    store = open_store(tmp_path / "store")
    for version in (1, 2, 3):
        store.put(saved_model(tmp_path / f"model-{version}", f"v{version}"), "leaves", version)
    store.change("leaves", lambda release: release_record.make_stable(release, 1))
    return store


@pytest.fixture
def follow(models, tmp_path):
    """Makes a sync of the store to a folder; all are closed in the end."""
    syncs = []

    def make(track="stable", clock=time.monotonic, folder="served", **settings):
        sync = Sync(
            models, tmp_path / folder, SyncSettings(track=track, **{"interval_s": 0.05, **settings}), clock
        )
        syncs.append(sync)
        return sync

    yield make
    for sync in syncs:
        sync.__exit__()


@pytest.fixture
def served(tmp_path):
    return tmp_path / "served"
