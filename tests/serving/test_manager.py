"""The manager, with models that are nothing but a number."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pergola.serving.server.config.errors import (
    Code,
    DeadlineExpired,
    LabelNotAvailable,
    LoadFailed,
    ModelsNotAvailable,
    NoSuchVersionOfModel,
    NoVersionsOfModel,
    ServableNotFound,
    Superseded,
    UnknownLabel,
    VersionDamaged,
)
from pergola.serving.server.config.model_config import ModelConfig
from pergola.serving.server.config.versions import All, Latest, Specific
from pergola.serving.server.core.manager import Manager, ManagerSettings
from pergola.serving.server.core.servable import ServableVersion, VersionState, stamp_of

QUICK = ManagerSettings(poll_s=0.02, max_num_load_retries=1, load_retry_interval_s=0.02)


class Folders:
    """Version folders, and a `load` that reads them: a file "broken" makes loading fail."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.events: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def add(self, version: int, model: str = "m", broken: bool = False, damaged: bool = False) -> Path:
        folder = self.base / model / str(version)
        folder.mkdir(parents=True)
        if broken:
            (folder / "broken").touch()
        if damaged:
            (folder / "damaged").touch()
        return folder

    def config(self, model: str = "m", **changes) -> ModelConfig:
        return replace(ModelConfig(model, self.base / model), **changes)

    def load(self, config, version, folder):
        self.gate.wait(5)
        if (folder / "broken").exists():
            self.events.append(f"fail {version}")
            raise LoadFailed(message=f"{folder} is broken")
        if (folder / "damaged").exists():
            self.events.append(f"damaged {version}")
            raise VersionDamaged(message=f"{folder} is damaged")
        self.events.append(f"load {version}")
        return Loaded(self, version)


class Loaded:
    signatures = signature_defs = None

    def __init__(self, folders, version) -> None:
        self.folders, self.version = folders, version

    def close(self) -> None:
        self.folders.events.append(f"close {self.version}")


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path)


@pytest.fixture
def start(folders):
    running = []

    def make(settings: ManagerSettings = QUICK) -> Manager:
        running.append(Manager(folders.load, settings))
        return running[-1]

    yield make
    folders.gate.set()
    for manager in running:
        manager.close()


def until(condition, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def served(manager, model="m", **which) -> int | None:
    try:
        with manager.acquire(model, **which) as servable:
            return servable.version
    except ServableNotFound:
        return None


def test_apply_waits_for_the_model(folders, start):
    folders.add(1)
    manager = start()
    assert served(manager) is None
    manager.apply([folders.config()])
    assert served(manager) == 1


def test_a_new_version_is_picked_up_and_loads_before_the_old_unloads(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    folders.add(2)
    until(lambda: served(manager) == 2)
    until(lambda: manager.statuses("m", 1)[0].state is VersionState.END)  # a moment after it is closed
    assert folders.events == ["load 1", "load 2", "close 1"]
    assert [s.state for s in manager.statuses("m")] == [VersionState.AVAILABLE, VersionState.END]


def test_a_request_in_flight_keeps_its_version(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    with manager.acquire("m") as servable:
        folders.add(2)
        until(lambda: served(manager) == 2)
        until(lambda: manager.statuses("m", 1)[0].state is VersionState.UNLOADING)
        assert servable.version == 1 and "close 1" not in folders.events
    until(lambda: "close 1" in folders.events)


def test_a_bad_version_never_takes_down_a_good_one(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    folders.add(2, broken=True)
    until(lambda: manager.statuses("m")[0].state is VersionState.END)
    assert folders.events == ["load 1", "fail 2", "fail 2"]
    status = manager.statuses("m", 2)[0]
    assert status.code.name == "NOT_FOUND" and "is broken" in status.message
    assert served(manager) == 1


def test_a_damaged_version_is_not_tried_again_until_its_files_change(folders, start):
    folders.add(1)
    manager = start(replace(QUICK, max_num_load_retries=1000))
    manager.apply([folders.config()])
    bad = folders.add(2, damaged=True)
    until(lambda: manager.statuses("m")[0].state is VersionState.END)
    assert manager.statuses("m", 2)[0].code.name == "DATA_LOSS"
    time.sleep(0.1)
    assert folders.events == ["load 1", "damaged 2"] and served(manager) == 1
    bad.rename(folders.base / "aside")
    folders.add(2)  # between two polls
    until(lambda: served(manager) == 2)


def test_a_damaged_version_whose_folder_is_gone_stops_nothing(folders):
    """Between two polls of the folder a version may be taken away: it is another then, and no error."""
    path = folders.add(2, damaged=True)
    damaged = ServableVersion(2, path, state=VersionState.END, code=Code.DATA_LOSS)
    damaged.stamp = stamp_of(path)
    assert damaged.stamp and not damaged.was_repaired
    path.rename(folders.base / "aside")
    assert stamp_of(path) == frozenset() and damaged.was_repaired


def test_a_half_written_version_is_served_once_it_is_whole(folders, start):
    folders.add(1)
    manager = start(replace(QUICK, max_num_load_retries=1000))
    manager.apply([folders.config()])
    half = folders.add(2, broken=True)
    until(lambda: "fail 2" in folders.events)
    (half / "broken").unlink()
    until(lambda: served(manager) == 2)


def test_a_version_that_comes_back_gets_another_chance(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    bad = folders.add(2, broken=True)
    until(lambda: manager.statuses("m")[0].state is VersionState.END)
    (bad / "broken").unlink()
    bad.rename(folders.base / "aside")
    until(lambda: [s.version for s in manager.statuses("m")] == [1])
    (folders.base / "aside").rename(bad)
    until(lambda: served(manager) == 2)


def test_a_deleted_version_falls_back_to_the_one_before(folders, start):
    folders.add(1)
    second = folders.add(2)
    manager = start()
    manager.apply([folders.config()])
    assert served(manager) == 2
    second.rmdir()
    until(lambda: served(manager) == 1)


def test_an_emptied_base_path_unloads_and_a_deleted_one_does_not(folders, start, caplog):
    folder = folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    (folders.base / "m").rename(folders.base / "away")
    until(lambda: "cannot be read; nothing changes" in caplog.text)
    assert served(manager) == 1
    (folders.base / "away").rename(folders.base / "m")
    folder.rmdir()
    until(lambda: served(manager) is None)
    assert caplog.text.count("cannot be read") == 1


def test_policies_decide_what_is_loaded(folders, start):
    for version in (1, 2, 3):
        folders.add(version)
    manager = start()
    manager.apply([folders.config(policy=All())])
    until(lambda: served(manager, version=1) == 1)
    assert served(manager, version=2) == 2 and served(manager) == 3
    manager.apply([folders.config(policy=Specific(frozenset({1})))])
    until(lambda: served(manager) == 1)
    manager.apply([folders.config(policy=Latest(2))])
    until(lambda: served(manager) == 3)
    until(lambda: served(manager, version=1) is None)
    assert served(manager, version=2) == 2


def test_apply_replaces_the_whole_list(folders, start):
    folders.add(1, "m")
    folders.add(1, "n")
    manager = start()
    manager.apply([folders.config("m")])
    manager.apply([folders.config("n")])
    assert served(manager, "n") == 1
    until(lambda: served(manager, "m") is None)
    assert manager.models() == ["n"]
    manager.apply([folders.config("n"), folders.config("m")])
    assert served(manager, "m") == 1


def test_apply_says_which_models_did_not_come_up_and_serves_the_others(folders, start):
    folders.add(1, "good")
    folders.add(1, "bad", broken=True)
    manager = start()
    with pytest.raises(
        ModelsNotAvailable, match=r"^1 servable\(s\) did not become available: .*bad version: 1"
    ):
        manager.apply([folders.config("good"), folders.config("bad")])
    assert served(manager, "good") == 1


def test_apply_gives_up_at_its_deadline(folders, start):
    (folders.base / "m").mkdir()
    manager = start()
    with pytest.raises(DeadlineExpired):
        manager.apply([folders.config()], timeout_s=0.1)


def test_a_newer_apply_ends_an_older_one_that_waits(folders, start):
    (folders.base / "m").mkdir()
    folders.add(1, "n")
    manager = start()
    errors = []

    def wait():
        try:
            manager.apply([folders.config("m")])
        except Superseded as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: manager.models() == ["m"])
    manager.apply([folders.config("n")])
    thread.join(5)
    assert len(errors) == 1 and served(manager, "n") == 1


def test_labels_point_at_loaded_versions_only(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    taken = []
    with pytest.raises(LabelNotAvailable, match="label to version 2 of model m"):
        manager.apply([folders.config(labels={"stable": 2})], taken=lambda: taken.append(1))
    assert not taken and manager.has([folders.config()])
    with pytest.raises(UnknownLabel, match="stable"):
        manager.acquire("m", label="stable")
    manager.apply([folders.config(labels={"stable": 1})])
    assert served(manager, label="stable") == 1


def test_labels_may_point_ahead_where_that_is_allowed(folders, start):
    folders.add(1)
    manager = start(replace(QUICK, allow_labels_for_unavailable=True))
    manager.apply([folders.config(labels={"next": 2})])
    with pytest.raises(ServableNotFound, match=r"Specific\(m, 2\)"):
        manager.acquire("m", label="next")
    with pytest.raises(LabelNotAvailable, match="version 3"):  # a label in use does not move ahead
        manager.apply([folders.config(labels={"next": 3})])
    manager.apply([folders.config(labels={"next": 1, "later": 3})])
    assert served(manager, label="next") == 1


def test_statuses_of_the_unknown_are_refused(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    with pytest.raises(NoVersionsOfModel):
        manager.statuses("nope")
    with pytest.raises(NoSuchVersionOfModel):
        manager.statuses("m", 7)


def test_a_version_that_is_withdrawn_while_it_loads_is_let_go(folders, start):
    folders.add(1)
    manager = start()
    manager.apply([folders.config()])
    folders.gate.clear()
    second = folders.add(2)
    until(lambda: len(manager.statuses("m")) == 2)
    second.rmdir()
    time.sleep(0.1)
    folders.gate.set()
    until(lambda: "load 2" not in folders.events or "close 2" in folders.events)
    assert served(manager) == 1


def test_poll_zero_looks_once(folders, start):
    folders.add(1)
    manager = start(replace(QUICK, poll_s=0))
    manager.apply([folders.config()])
    folders.add(2)
    time.sleep(0.2)
    assert served(manager) == 1
    manager.poll()
    until(lambda: served(manager) == 2)


def test_close_unloads_everything(folders):
    folders.add(1)
    manager = Manager(folders.load, QUICK)
    manager.apply([folders.config()])
    manager.close()
    assert folders.events == ["load 1", "close 1"]
