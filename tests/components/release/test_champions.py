"""One answer to "which version is live": release record, registry alias and models.config."""

import json

import pytest

from pergola.components.errors import InputError
from pergola.components.release.champions import Champions, champion, live_version
from pergola.components.release.registry.lookup import champion_of
from pergola.components.release.registry.registry import Registry
from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.publish import publish
from pergola.components.workspace import Workspace
from tests.support import registries, versions

MODEL = "leaves"


@pytest.fixture
def workspace(tmp_path):
    """Versions 1 to 3 are registered and published; nothing is live."""
    registries.put_empty(tmp_path / "work")
    made = Workspace(tmp_path / "work")
    registry = Registry(made.tracking_uri)
    for number in (1, 2, 3):
        saved_model = versions.saved_model(tmp_path / f"model-{number}", str(number))
        registry.register(MODEL, registry.runs.open(f"run-{number}"), saved_model, sha256=f"{number}" * 64)
        publish(saved_model, made.models, MODEL, number)
    return made


def agreed(workspace):
    """The version that record, alias, models.config and readers name."""
    record = json.loads((workspace.models / MODEL / "release.json").read_text())
    alias, text = champion_of(workspace.tracking_uri, MODEL), workspace.models_config.read_text()
    live = record["stable"]
    assert (alias.version if alias else None) == live == live_version(workspace, MODEL)
    assert text.count("versions:") == (live is not None) and (live is None or f"versions: {live} " in text)
    found = champion(workspace, MODEL)
    assert (found.version if found else None) == live
    return live


def test_a_candidate_that_nobody_confirmed_is_not_live(workspace):
    assert live_version(workspace, MODEL) is None and champion(workspace, MODEL) is None


def test_a_damaged_record_of_one_model_does_not_stop_another(workspace, tmp_path, caplog):
    Champions(workspace).promote(MODEL, 2)
    record = workspace.models / MODEL / "release.json"
    record.write_text(record.read_text()[:40])
    publish(tmp_path / "model-1", workspace.models, "oaks", 1)
    Champions(workspace).promote("oaks", 1)
    text = workspace.models_config.read_text()
    assert '"oaks"' in text and "versions: 2 " in text
    assert "release.json is not readable" in caplog.text and "stays at version 2" in caplog.text
    with pytest.raises(release_record.Unreadable):
        Champions(workspace).promote(MODEL, 3)


def test_every_change_moves_record_alias_and_config(workspace):
    champions = Champions(workspace, "because")
    assert champions.promote(MODEL, 1) is None and agreed(workspace) == 1
    assert champions.promote(MODEL, 3) == 1 and agreed(workspace) == 3
    assert champions.promote(MODEL, 3) == 1  # again: the one before it, as the first time
    champions.change(MODEL, release_record.rollback)
    assert agreed(workspace) == 1 and champion(workspace, MODEL).previous is None
    champions.promote(MODEL, 2)
    assert agreed(workspace) == 2 and champion(workspace, MODEL).previous == 1
    champions.change(MODEL, lambda record: release_record.withdraw(record, 2))
    champions.change(MODEL, lambda record: release_record.withdraw(record, 1))
    assert agreed(workspace) is None
    history = open_store(workspace.models).release(MODEL).history
    assert [event.stable for event in history] == [1, 3, 1, 2, 1, None]
    assert {event.why for event in history} == {"because"}


def test_a_kill_between_record_and_alias_is_mended_by_the_next_command(workspace):
    Champions(workspace).promote(MODEL, 1)
    store = open_store(workspace.models)
    store.change(MODEL, lambda record: release_record.make_stable(record, 2))  # and then it was killed
    assert champion_of(workspace.tracking_uri, MODEL).version == 1 and live_version(workspace, MODEL) == 2
    Champions(workspace).settle(MODEL)
    assert agreed(workspace) == 2


def test_a_workspace_without_a_record_has_the_champion_of_its_registry(workspace):
    """As one of 0.1.0; the first change takes it over, so that there is something to roll back to."""
    Registry(workspace.tracking_uri).promote(MODEL, 2)
    assert live_version(workspace, MODEL) == 2
    Champions(workspace).promote(MODEL, 3)
    assert agreed(workspace) == 3
    assert open_store(workspace.models).release(MODEL).previous == 2


def test_a_registry_of_its_own_server_leads_and_the_record_follows(workspace):
    """On a cluster `pergola release --store` moves the alias of a registry that many share."""
    registry = Registry(workspace.tracking_uri)
    Champions(workspace).promote(MODEL, 3)
    shared = Workspace(workspace.root, workspace.tracking_uri)
    shared.has_own_registry = False
    registry.promote(MODEL, 1)
    assert live_version(shared, MODEL) == 1
    Champions(shared).promote(MODEL, 2)
    assert [event.stable for event in open_store(workspace.models).release(MODEL).history] == [3, 1, 2]


def test_a_version_that_is_not_published_cannot_become_live(workspace):
    Champions(workspace).promote(MODEL, 1)
    with pytest.raises(InputError, match=r"no version 9 of 'leaves'\. Published: 1, 2, 3"):
        Champions(workspace).promote(MODEL, 9)
    assert agreed(workspace) == 1


def test_a_model_that_the_registry_does_not_know_is_live_at_its_newest_version(workspace, tmp_path):
    for number in (4, 5):
        saved_model = versions.saved_model(tmp_path / f"other-{number}", str(number))
        publish(saved_model, workspace.models, "by-hand", number)
    assert live_version(workspace, "by-hand") == 5
    Champions(workspace).promote("by-hand", 4)
    assert live_version(workspace, "by-hand") == 4 and "versions: 4 " in workspace.models_config.read_text()
