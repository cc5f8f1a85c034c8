"""The sync beside a server that is slow, or cannot load: a stand-in for TensorFlow Serving's status."""

import http.server
import json
import threading

import pytest

from pergola.components.store import release_record
from tests.support.versions import labels


class FakeServing(http.server.BaseHTTPRequestHandler):
    """Answers status as TensorFlow Serving does; `states` says what."""

    states: dict

    def do_GET(self):
        version = self.path.rsplit("/", 1)[-1]
        state, message = self.states.get(version, ("START", ""))
        status = {"error_code": "UNKNOWN" if message else "OK", "error_message": message}
        body = json.dumps(
            {"model_version_status": [{"version": version, "state": state, "status": status}]}
        ).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serving():
    FakeServing.states = {"1": ("AVAILABLE", "")}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeServing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_sync_moves_a_label_only_when_the_server_has_loaded_the_version(models, follow, serving, served):
    sync = follow(server=serving)
    sync.settle()
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.settle()
    assert labels(sync) == {"stable": 1}
    assert "versions: 1 versions: 2" in (served / "models.config").read_text()
    FakeServing.states["2"] = ("AVAILABLE", "")
    sync.round()
    assert labels(sync) == {"stable": 2}
    assert "specific { versions: 2 }" in (served / "models.config").read_text()


def test_sync_takes_back_a_version_that_is_withdrawn_while_the_server_loads_it(
    models, follow, serving, served
):
    sync = follow(server=serving)
    sync.settle()
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.settle()
    FakeServing.states["2"] = ("LOADING", "")
    sync.round()
    assert "versions: 2" in (served / "models.config").read_text()
    models.change("leaves", release_record.rollback)
    sync.round()
    assert "specific { versions: 1 }" in (served / "models.config").read_text()
    FakeServing.states["2"] = ("AVAILABLE", "")  # it was done after all
    sync.round()
    assert "versions: 2" not in (served / "models.config").read_text()
    assert labels(sync) == {"stable": 1} and sync.status().models["leaves"].rejected == {}


def test_sync_gives_up_a_version_that_the_server_cannot_load(models, follow, serving, served):
    sync = follow(server=serving)
    sync.settle()
    models.change("leaves", lambda release: release_record.make_stable(release, 2))
    sync.settle()
    FakeServing.states["2"] = ("END", "Could not find meta graph def matching supplied tags: { serve }")
    sync.round()
    sync.round()
    assert sync.status().models["leaves"].rejected[2].kind == "load"
    assert "specific { versions: 1 }" in (served / "models.config").read_text()
    models.change("leaves", lambda release: release_record.make_stable(release, 3))
    FakeServing.states["3"] = ("AVAILABLE", "")
    sync.settle()
    sync.round()
    assert labels(sync) == {"stable": 3}
    assert sync.status().models["leaves"].rejected == {}


def test_a_canary_that_never_becomes_ready_leaves_old_pods_as_they_are_until_it_is_withdrawn(
    models, follow, serving, served, tmp_path
):
    old, new = (follow(track="canary", server=serving, folder=folder) for folder in ("old", "new"))
    old.settle()
    FakeServing.states["2"] = ("LOADING", "")
    models.change("leaves", lambda release: release_record.make_canary(release, 2, 0.1))
    for sync in (old, new):
        sync.settle()
        sync.round()
    assert labels(old) == {"stable": 1}
    assert "versions: 1 versions: 2" in (tmp_path / "old" / "models.config").read_text()
    FakeServing.states["2"] = ("END", "Op type not registered 'Nope'")
    old.round()
    assert old.status().models["leaves"].rejected[2].kind == "load"
    assert "Op type not registered" in old.status().models["leaves"].rejected[2].message
    assert 'version="2",kind="load"} 1' in old.status().to_prometheus() and old.status().reason == ""
    assert "specific { versions: 1 }" in (tmp_path / "old" / "models.config").read_text()
    models.change("leaves", release_record.withdraw)
    for sync in (old, new):
        sync.settle()
        sync.round()
        assert labels(sync) == {"stable": 1} and sync.status().models["leaves"].rejected == {}
    assert "specific { versions: 1 }" in (tmp_path / "new" / "models.config").read_text()
