"""The sync beside a server: real folders, a real status page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from pergola.components.errors import InputError
from pergola.components.store import release_record
from pergola.components.store.models_config import ConfigEntry
from pergola.components.store.sync import Sync, SyncSettings
from pergola.components.store.sync_status import StatusServer
from tests.support.versions import labels


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_sync_serves_the_stable_version_and_nothing_else(follow, served):
    sync = follow()
    sync.settle()
    assert os.listdir(served / "leaves") == ["1"]
    assert (served / "leaves" / "1" / "saved_model.pb").read_bytes() == b"graph v1"
    text = (served / "models.config").read_text()
    assert f'base_path: "{served}/leaves"' in text
    assert "specific { versions: 1 }" in text
    assert 'version_labels { key: "stable" value: 1 }' in text
    assert sync.status().reason == ""


def test_sync_of_the_canary_track_goes_to_the_canary_and_back(models, follow):
    sync = follow(track="canary")
    sync.settle()
    assert labels(sync) == {"stable": 1}
    models.change("leaves", lambda release: release_record.make_canary(release, 2, 0.1))
    sync.settle()
    assert labels(sync) == {"canary": 2}
    models.change("leaves", release_record.withdraw)
    sync.settle()
    assert labels(sync) == {"stable": 1}


def test_sync_of_both_serves_two_versions(models, follow, served):
    models.change("leaves", lambda release: release_record.make_canary(release, 3, 0.5))
    sync = follow(track="both")
    sync.settle()
    assert labels(sync) == {"stable": 1, "canary": 3}
    assert "versions: 1 versions: 3" in (served / "models.config").read_text()


def test_sync_keeps_the_old_version_while_the_new_one_is_on_its_way(models, follow, served):
    sync = follow()
    sync.settle()
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.round()
    assert labels(sync) == {"stable": 1}
    sync.settle()
    assert labels(sync) == {"stable": 2}


def test_sync_writes_no_config_before_there_is_a_version(follow, served):
    sync = follow()
    sync.round()
    assert not (served / "models.config").exists()
    sync.settle()
    assert "versions: 1" in (served / "models.config").read_text()


def test_sync_never_serves_what_fails_its_checksum(models, follow, served, tmp_path):
    sync = follow()
    sync.settle()
    (tmp_path / "store" / "leaves" / "2" / "variables" / "variables.index").write_bytes(b"rotten")
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.settle()
    status = sync.status()
    assert status.models["leaves"].labels == {"stable": 1}
    assert status.models["leaves"].rejected[2].kind == "checksum"
    assert "SHA-256" in json.loads(status.to_json())["models"]["leaves"]["rejected"]["2"]["message"]
    assert 'pergola_sync_rejected{model="leaves",version="2",kind="checksum"} 1' in status.to_prometheus()
    assert 'pergola_sync_failures_total{kind="checksum"} 1' in status.to_prometheus()
    assert not (served / "leaves" / "2").exists()


def test_sync_tries_a_failed_version_again_after_a_while(models, follow, tmp_path):
    clock = Clock()
    sync = follow(clock=clock, interval_s=5)
    path = tmp_path / "store" / "leaves" / "1" / "saved_model.pb"
    good = path.read_bytes()
    path.write_bytes(b"rotten")
    sync.settle()
    assert sync.status().reason.startswith(f"no version yet of leaves: {path} has SHA-256")
    path.write_bytes(good)
    sync.settle()
    assert labels(sync) == {}
    clock.now += 11
    sync.settle()
    assert labels(sync) == {"stable": 1}
    assert sync.status().models["leaves"].rejected == {}


def test_sync_goes_on_when_the_store_is_away(models, follow, served, tmp_path):
    sync = follow()
    sync.settle()
    os.rename(tmp_path / "store", tmp_path / "away")
    before = (served / "models.config").read_bytes()
    sync.round()
    assert "not mounted" in sync.status().store_error
    assert sync.status().reason == ""
    assert "pergola_sync_store_up 0" in sync.status().to_prometheus()
    assert (served / "models.config").read_bytes() == before
    os.rename(tmp_path / "away", tmp_path / "store")
    sync.round()
    assert sync.status().store_error == ""


def test_a_store_that_is_restored_from_a_copy_is_followed_again(models, follow, tmp_path):
    """As docs/operations.md says: versions first, release.json last. One version rotted in the copy."""
    sync = follow()
    sync.settle()
    store, copy = tmp_path / "store", tmp_path / "backup"
    shutil.copytree(store, copy)
    good = (copy / "leaves/3/saved_model.pb").read_bytes()
    (copy / "leaves/3/saved_model.pb").write_bytes(b"rotten")
    shutil.rmtree(store)
    sync.round()
    assert "not mounted" in sync.status().store_error and labels(sync) == {"stable": 1}
    shutil.copytree(copy, store, ignore=shutil.ignore_patterns("release.json"))
    sync.settle()
    restarted = follow()
    restarted.settle()
    assert labels(sync) == labels(restarted) == {"stable": 1}
    assert "lost the release record of 'leaves'" in sync.status().store_error
    shutil.copy(copy / "leaves/release.json", store / "leaves")
    sync.settle()
    assert sync.status().store_error == "" and labels(sync) == {"stable": 1}
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.settle()
    assert labels(sync) == {"stable": 2}
    models.change("leaves", lambda release: release_record.make_stable(release, 3))
    sync.settle()
    assert labels(sync) == {"stable": 2} and sync.status().models["leaves"].rejected[3].kind == "checksum"
    (store / "leaves/3/saved_model.pb").write_bytes(good)
    again = follow()
    again.settle()
    assert labels(again) == {"stable": 3}


def test_sync_restarted_without_a_store_serves_what_it_has(models, follow, served, tmp_path):
    follow().settle()
    os.rename(tmp_path / "store", tmp_path / "away")
    (served / "models.config").unlink()
    sync = follow()
    sync.round()
    assert labels(sync) == {"stable": 1}
    assert "versions: 1" in (served / "models.config").read_text()


def test_sync_restarted_drops_a_version_that_rotted_on_its_own_disk(models, follow, served):
    follow().settle()
    (served / "leaves" / "1" / "saved_model.pb").write_bytes(b"rotten")
    sync = follow()
    assert not (served / "leaves" / "1").exists()
    sync.settle()
    assert labels(sync) == {"stable": 1}


def test_sync_of_a_broken_record_keeps_what_it_serves(models, follow, tmp_path):
    sync = follow()
    sync.settle()
    (tmp_path / "store" / "leaves" / "release.json").write_text("{")
    sync.round()
    assert labels(sync) == {"stable": 1}
    assert "not readable as JSON" in sync.status().store_error


def test_sync_unloads_a_model_that_has_no_stable_version_any_more(models, follow, served):
    sync = follow(models=("leaves",))
    sync.settle()
    models.change("leaves", lambda release: release_record.withdraw(release, 1))
    sync.settle()
    assert (served / "models.config").read_text() == "model_config_list {\n}\n"
    assert sync.status().reason == "no version yet of leaves"


def test_sync_removes_what_is_unused_after_the_grace_time_but_not_where_a_rollback_goes(
    models, follow, served
):
    clock = Clock()
    sync = follow(clock=clock, grace_s=60)
    sync.settle()
    for version in (2, 3):
        models.change("leaves", lambda release, v=version: release_record.make_stable(release, v))
        sync.settle()
    clock.now += 59
    sync.round()
    assert sorted(os.listdir(served / "leaves")) == ["1", "2", "3"]
    clock.now += 2
    sync.round()
    assert sorted(os.listdir(served / "leaves")) == ["2", "3"]


def test_sync_stops_fetching_a_version_that_is_withdrawn_meanwhile(models, follow, served, tmp_path):
    sync = follow()
    sync.settle()
    pipe = tmp_path / "store" / "leaves" / "2" / "assets.extra" / "grüße und mehr.txt"
    pipe.unlink()
    os.mkfifo(pipe)  # the first file of the list: reading it waits for a writer
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.round()
    writer = _wait_for(lambda: _open_once_read(pipe))
    models.change("leaves", release_record.rollback)
    sync.round()
    assert labels(sync) == {"stable": 1}
    os.write(writer, b"v2")
    os.close(writer)
    sync.settle()
    assert os.listdir(served / "leaves") == ["1"]
    assert sync.status().models["leaves"].fetching == ()


def test_sync_refuses_a_folder_of_someone_else(models, tmp_path):
    (tmp_path / "mine" / "leaves").mkdir(parents=True)
    with pytest.raises(InputError, match="holds folders that sync did not write"):
        Sync(models, tmp_path / "mine", SyncSettings())


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_status_server_answers_probes_and_metrics(models, follow):
    from prometheus_client.parser import text_string_to_metric_families

    sync = follow()
    with StatusServer(sync.status, "127.0.0.1") as server:
        assert get(server.port, "/healthz") == (200, "ok\n")
        assert get(server.port, "/readyz")[0] == 503
        sync.settle()
        assert get(server.port, "/readyz") == (200, "ok\n")
        assert json.loads(get(server.port, "/status")[1])["models"]["leaves"]["labels"] == {"stable": 1}
        assert get(server.port, "/else")[0] == 404
        families = {f.name: f for f in text_string_to_metric_families(get(server.port, "/metrics")[1])}
    assert families["pergola_sync_version"].samples[0].labels == {"model": "leaves", "label": "stable"}
    assert families["pergola_sync_version"].samples[0].value == 1
    assert families["pergola_sync_fetches"].samples[0].value == 1


def test_status_is_unhealthy_when_rounds_stop(follow):
    clock = Clock()
    sync = follow(clock=clock)
    sync.round()
    clock.now += 61
    with StatusServer(sync.status, "127.0.0.1") as server:
        assert get(server.port, "/healthz") == (503, "no round for 61 s\n")


def test_status_server_on_a_taken_port_says_so(follow):
    with (
        StatusServer(follow().status, "127.0.0.1") as server,
        pytest.raises(InputError, match=f"Port {server.port} cannot be used"),
    ):
        StatusServer(follow().status, "127.0.0.1", server.port)


SCRIPT = """
import sys
from pathlib import Path
from pergola.components.store import sync
heavy = {"tensorflow", "numpy", "pandas", "fsspec", "grpc", "mlflow"} & set(sys.modules)
assert not heavy, heavy
sync.run(sys.argv[1], Path(sys.argv[2]), sync.SyncSettings(interval_s=0.1), host="127.0.0.1", port=0)
"""


def test_run_follows_until_sigterm_with_nothing_heavy_loaded(models, served, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "store"), str(served)])
    try:
        _wait_for(lambda: (served / "models.config").exists() and "versions: 1" in _read(served))
        models.change("leaves", lambda release: release_record.make_stable(release, 2))
        _wait_for(lambda: "versions: 2" in _read(served))
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()


def _read(served):
    return (served / "models.config").read_text()


def _open_once_read(pipe):
    """A pipe's file descriptor for writing, once someone reads it; None before."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def _wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


def test_configs_survive_a_restart(models, follow, served):
    follow().settle()
    assert json.loads((served / "sync.json").read_text()) == {
        "leaves": {"versions": [1], "labels": {"stable": 1}}
    }
    assert labels(follow()) == ConfigEntry((1,), {"stable": 1}).labels


def test_sync_restarted_after_a_kill_drops_what_was_half_fetched(follow, served):
    follow().settle()
    (served / "leaves" / ".incoming-2-4711").mkdir()
    (served / "leaves" / ".incoming-2-4711" / "saved_model.pb").write_bytes(b"half")
    follow()
    assert os.listdir(served / "leaves") == ["1"]
