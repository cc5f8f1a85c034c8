"""The sync and the store where the disk is full: a real, small one."""

import os
import subprocess

import pytest

from pergola.components.errors import StepError
from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.sync import Sync, SyncSettings
from tests.support.versions import labels, saved_model


@pytest.fixture
def small_disk(tmp_path):
    """A folder with room for 256 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_sync_with_a_full_disk_keeps_what_it_serves_and_says_so(models, tmp_path, small_disk):
    models.put(saved_model(tmp_path / "large", "large", num_bytes=1_000_000), "leaves", 4)
    with Sync(models, small_disk / "served", SyncSettings(interval_s=0.05)) as sync:
        sync.settle()
        models.change("leaves", lambda release: release_record.make_stable(release, 4))
        sync.settle()
        assert labels(sync) == {"stable": 1}
        assert sync.status().models["leaves"].rejected[4].kind == "disk"
        assert "No space left" in sync.status().models["leaves"].rejected[4].message
        assert os.listdir(small_disk / "served" / "leaves") == ["1"]


def test_a_store_on_a_full_disk_publishes_nothing(tmp_path, small_disk):
    store = open_store(small_disk)
    with pytest.raises(StepError, match="full"):
        store.put(saved_model(tmp_path / "large", "large", num_bytes=1_000_000), "leaves", 1)
    assert store.versions("leaves") == []
    assert [name for name in os.listdir(small_disk / "leaves") if name != ".lock"] == []
