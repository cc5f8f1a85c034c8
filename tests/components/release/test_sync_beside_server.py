"""Store, sync and a real server together, under load: release, bad versions, rollback."""

import threading
import time
from collections import Counter

import pytest

from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.sync import Sync, SyncSettings
from tests.support.models import half_plus_two
from tests.support.servers import ServerProcess

pytestmark = pytest.mark.slow


class Load:
    """Asks one thing after another, and counts answers and errors."""

    def __init__(self, server, path="/v1/models/half:predict"):
        self.answers, self.errors = Counter(), []
        self._server, self._path, self._stop = server, path, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            reply = self._server.post(self._path, {"instances": [2.0]})
            if reply.status == 200:
                self.answers[reply.json()["predictions"][0]] += 1
            else:
                self.errors.append(reply.body)
            time.sleep(0.005)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()


def wait_for(condition, timeout_s=30):
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout_s
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Versions 1, 2, 3 answer 2 with 2.0, 3.0, 4.0; version 4 cannot be loaded."""
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3):
        half_plus_two(folder, version, add=float(version))
    (folder / "4").mkdir()
    (folder / "4" / "saved_model.pb").write_bytes(b"no graph at all")
    return folder


def test_versions_change_under_load_without_a_failed_request(models, tmp_path):
    (tmp_path / "store").mkdir()
    store = open_store(tmp_path / "store")
    for version in (1, 2, 3, 4):
        store.put(models / str(version), "half", version)
    store.change("half", lambda r: release_record.make_stable(r, 1))
    with Sync(store, tmp_path / "served", SyncSettings(track="both", interval_s=0.2)) as first:
        first.settle()
    server = ServerProcess(
        tmp_path / "scratch",
        f"--model_config_file={tmp_path / 'served' / 'models.config'}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models=true",
        "--max_num_load_retries=0",
    )
    settings = SyncSettings(track="both", interval_s=0.2, grace_s=1, server=server.rest)
    stop = threading.Event()
    with server, Sync(store, tmp_path / "served", settings) as sync:
        thread = threading.Thread(target=sync.run, args=(stop,))
        thread.start()
        try:
            with (
                Load(server) as load,
                Load(server, "/v1/models/half/labels/stable:predict") as by_label,
            ):
                wait_for(lambda: load.answers[2.0] and by_label.answers[2.0])
                store.change("half", lambda r: release_record.make_stable(r, 2))
                wait_for(lambda: load.answers[3.0] and by_label.answers[3.0])
                store.change("half", lambda r: release_record.make_canary(r, 3, 0.1))
                canary = "/v1/models/half/labels/canary:predict"
                wait_for(lambda: server.post(canary, {"instances": [2.0]}).status == 200)
                store.change("half", release_record.promote)
                wait_for(lambda: by_label.answers[4.0])
                seen = by_label.answers[3.0]
                store.change("half", release_record.rollback)
                seconds = wait_for(lambda: by_label.answers[3.0] > seen)
                store.change("half", lambda r: release_record.make_stable(r, 4))
                wait_for(lambda: 4 in sync.status().models["half"].rejected)
                time.sleep(2)
            assert load.errors == by_label.errors == []
            assert seconds < 30
            assert sync.status().models["half"].rejected[4].kind == "load"
            assert sync.status().models["half"].labels == {"stable": 2}
        finally:
            stop.set()
            thread.join()
