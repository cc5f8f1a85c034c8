"""The parts of pods that need no TensorFlow; all of them run in tests/pipelines/kubeflow/test_parity.py."""

import time
import tomllib

import pandas as pd
import pytest

from pergola.components.artifacts.data import Finding, Manifest, ValidationReport
from pergola.components.artifacts.release import Confirmation
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.history import DriftCheck, DriftHistory
from pergola.components.release.registry import Registry
from pergola.components.store.model_store import open_store
from pergola.pipelines.kubeflow import pod_data, pod_release, pod_settings, pod_workspace

SETTINGS = "[train]\nepochs = 3\n"


def manifest(folder, fingerprint="f", rows=12):
    folder.mkdir()
    table = {"path": [f"{i}.png" for i in range(rows)], "label": "a", "given_split": None, "id": "0"}
    pd.DataFrame(table).to_parquet(folder / "manifest.parquet")
    Manifest("folder", rows, 0, ("a", "b"), fingerprint).save(folder)
    return str(folder)


def changes(found, tmp_path, settings=SETTINGS, **retrain):
    return pod_release.changes(found, "leaves", settings, retrain, str(tmp_path / "work"))


def test_settings_text_has_all_sections_with_their_types():
    text = pod_settings.settings({"train": {"epochs": 7.0, "learning_rate": 1}, "split": {}})
    found = tomllib.loads(text)
    assert found["train"]["epochs"] == 7 and type(found["train"]["epochs"]) is int
    assert type(found["train"]["learning_rate"]) is float and found["train"]["learning_rate"] == 1
    assert {"scan", "validate", "gate", "smoke_test"} <= set(found)
    assert pod_settings.settings(found) == text


def test_settings_text_refuses_before_any_work():
    with pytest.raises(InputError, match=r"parameter train: unknown key 'epoch'\. Did you mean 'epochs'"):
        pod_settings.settings({"train": {"epoch": 3}})
    with pytest.raises(InputError, match=r"parameter gate: min_accuracy: 2.* out of bounds"):
        pod_settings.settings({"gate": {"min_accuracy": 2}})
    with pytest.raises(InputError, match=r"parameter model: 'my leaves' is no model's name"):
        pod_settings.settings({}, "my leaves")


def test_changes_compares_with_the_last_run_that_came_to_its_end(tmp_path):
    found = manifest(tmp_path / "one")
    assert changes(found, tmp_path) == ("changed", "leaves has had no run in this workspace.")
    pod_release.remember(tmp_path / "one", "leaves", SETTINGS, str(tmp_path / "work"), version=4)
    assert changes(found, tmp_path)[0] == "unchanged"
    assert "accepted as version 4" in changes(found, tmp_path)[1]
    assert changes(found, tmp_path, "# reordered\n" + SETTINGS)[0] == "unchanged"
    other = changes(found, tmp_path, SETTINGS.replace("3", "4"))
    assert other == ("changed", "The settings changed since the last run.")
    grown = manifest(tmp_path / "two", "g", 13)
    assert changes(grown, tmp_path) == ("changed", "1 image changed since the last run.")
    waits = changes(grown, tmp_path, min_images=2.0)
    assert waits[0] == "unchanged" and "1 image changed since the last run; at least 2 are needed" in waits[1]


def test_changes_asks_for_a_run_when_looks_found_drift(tmp_path):
    found, work = manifest(tmp_path / "one"), tmp_path / "work"
    pod_release.remember(tmp_path / "one", "leaves", SETTINGS, str(work), version=1)
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    (tmp_path / "model").mkdir()
    version = registry.register("leaves", registry.run("r"), tmp_path / "model", sha256="0" * 64).version
    registry.promote("leaves", version)
    look = DriftCheck(int(time.time()) + 1, 0, 9, 60, True, ("brightness moved",))
    DriftHistory((look,)).save(work / "drift" / "leaves" / str(version))
    assert changes(found, tmp_path)[0] == "unchanged"  # a run was only just
    state, reason = changes(found, tmp_path, min_hours=0)
    assert state == "changed" and reason.startswith("The last check of requests found drift.")
    assert changes(found, tmp_path, min_hours=0, drift_looks=2)[0] == "unchanged"


def test_changes_remembers_rejections_too(tmp_path):
    found = manifest(tmp_path / "one")
    pod_release.remember(tmp_path / "one", "leaves", SETTINGS, str(tmp_path / "work"), version=None)
    assert changes(found, tmp_path)[1].endswith("The last run was rejected.")


@pytest.fixture
def confirmed(tmp_path, monkeypatch):
    """A version in the workspace that was confirmed; deliver(store, release) of it."""
    monkeypatch.delenv("PERGOLA_STORE", raising=False)
    work = tmp_path / "work"
    model = work / "models" / "leaves" / "3"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "variables" / "variables.index").write_bytes(b"weights")
    Confirmation("leaves", 3, None, 0.0).save(tmp_path / "confirmation")
    found = manifest(tmp_path / "manifest")

    def deliver(store="", release=False):
        return pod_release.deliver(str(tmp_path / "confirmation"), found, store, release, SETTINGS, str(work))

    return deliver


def test_deliver_without_a_store_leaves_it_in_the_workspace(confirmed):
    assert "in the workspace only" in confirmed()


def test_deliver_puts_a_version_into_the_store_and_gives_it_requests_if_asked(
    confirmed, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    store.mkdir()
    assert "`pergola release` gives it requests" in confirmed(str(store))
    assert open_store(store).versions("leaves") == [3] and open_store(store).release("leaves").stable is None
    monkeypatch.setenv("PERGOLA_STORE", str(store))
    assert confirmed(release=True).endswith("and stable.")
    assert open_store(store).release("leaves").stable == 3
    assert changes(str(tmp_path / "manifest"), tmp_path)[0] == "unchanged"


def test_split_stops_at_critical_findings(tmp_path):
    found = (Finding("too_few", "critical", 1, (), "Class b has 1 image."),)
    ValidationReport(False, found, {}, 1, {}).save(tmp_path / "validation")
    with pytest.raises(InputError, match=r"cannot be used: Class b has 1 image\."):
        pod_data.split(
            "m", str(tmp_path / "validation"), str(tmp_path / "out"), {}, "leaves", str(tmp_path / "work")
        )


def test_workspace_asks_the_environment_for_the_registry(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert pod_workspace.Workspace(tmp_path).tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert pod_workspace.Workspace(tmp_path).tracking_uri() == "http://mlflow:5000"
