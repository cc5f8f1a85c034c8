"""Tasks that are not steps of the pipeline (check, changes), and the step `deliver`. No TensorFlow."""

import time
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.release import Confirmation, Delivery
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.history import DriftCheck, DriftHistory
from pergola.components.release.last_run import remember
from pergola.components.release.registry.registry import Registry
from pergola.components.settings import from_toml
from pergola.components.store.model_store import open_store
from pergola.pipelines.definition import TRAINING
from pergola.pipelines.kubeflow import pod, tasks
from tests.pipelines.kubeflow.test_pod import FakeArtifact
from tests.support import registries, step_artifacts
from tests.support.images import write_folder

SETTINGS = "[train]\nepochs = 3\n"


def manifest(folder, fingerprint="f", rows=12):
    folder.mkdir()
    table = {"path": [f"{i}.png" for i in range(rows)], "label": "a", "given_split": None, "id": "0"}
    pd.DataFrame(table).to_parquet(folder / "manifest.parquet")
    Manifest("folder", rows, 0, ("a", "b"), fingerprint).save(folder)
    return folder


@pytest.fixture
def changes(tmp_path):
    """Whether a manifest is worth a run, and why."""

    def ask(found, settings=SETTINGS, **retrain):
        given = {"dataset": "d", "model": "leaves", "workspace": str(tmp_path / "work"), "settings": settings,
                 "retrain_settings": retrain, "manifest": FakeArtifact(str(found)),
                 "why": FakeArtifact(str(tmp_path / "why"))}  # fmt: skip
        state = tasks.changes(given)
        return state, (tmp_path / "why").read_text().removesuffix("\n")

    return ask


def note(found, tmp_path, version, settings=SETTINGS):
    """A run of these settings came to its end."""
    outcome = "rejected" if version is None else "accepted"
    remember(tmp_path / "work" / "state" / "leaves", found, tomllib.loads(settings), outcome, version)


def check(tmp_path, name="leaves", **sections):
    dataset = write_folder(tmp_path / "dataset", classes=2, per_class=2)
    given = {"dataset": str(dataset), "model": name, "workspace": str(tmp_path / "work")}
    return tasks.check({**given, **{f"{name}_settings": values for name, values in sections.items()}})


def test_check_gives_all_settings_with_their_types(tmp_path):
    text, _ = check(tmp_path, train={"epochs": 7.0, "learning_rate": 1}, split={})
    found = tomllib.loads(text)
    assert found["train"]["epochs"] == 7 and type(found["train"]["epochs"]) is int
    assert type(found["train"]["learning_rate"]) is float and found["train"]["learning_rate"] == 1
    assert {"scan", "validate", "gate", "smoke_test"} <= set(found)
    sections = {name: values for name, values in found.items() if name != "retrain"}
    assert check(tmp_path, **sections)[0] == text and from_toml(text).train.epochs == 7


def test_check_lists_the_data_set_as_it_is_now(tmp_path):
    _, first = check(tmp_path)
    assert check(tmp_path)[1] != ""
    write_folder(tmp_path / "dataset", classes=2, per_class=3)
    _, more = check(tmp_path)
    assert len(first) == len(more) == 64 and more != first


def test_check_refuses_before_any_work(tmp_path):
    with pytest.raises(InputError, match=r"parameter train: unknown key 'epoch'\. Did you mean 'epochs'"):
        check(tmp_path, train={"epoch": 3})
    with pytest.raises(InputError, match=r"parameter gate: min_accuracy: 2.* out of bounds"):
        check(tmp_path, gate={"min_accuracy": 2})
    with pytest.raises(InputError, match=r"parameter model: 'my leaves' cannot be a model's name"):
        check(tmp_path, name="my leaves")


def test_changes_compares_with_the_last_run_that_came_to_its_end(changes, tmp_path):
    found = manifest(tmp_path / "one")
    assert changes(found) == ("changed", "leaves has had no run in this workspace.")
    note(found, tmp_path, version=4)
    assert changes(found)[0] == "unchanged"
    assert "accepted as version 4" in changes(found)[1]
    assert changes(found, "# reordered\n" + SETTINGS)[0] == "unchanged"
    other = changes(found, SETTINGS.replace("3", "4"))
    assert other == ("changed", "The settings changed since the last run.")
    grown = manifest(tmp_path / "two", "g", 13)
    assert changes(grown) == ("changed", "1 image changed since the last run.")
    waits = changes(grown, min_images=2.0)
    assert waits[0] == "unchanged" and "1 image changed since the last run; at least 2 are needed" in waits[1]


def test_changes_asks_for_a_run_when_drift_was_found(changes, tmp_path):
    found, work = manifest(tmp_path / "one"), tmp_path / "work"
    note(found, tmp_path, version=1)
    registries.put_empty(work)
    registry = Registry(f"sqlite:///{work / 'mlflow.db'}")
    (tmp_path / "model").mkdir()
    version = registry.register(
        "leaves", registry.runs.open("r"), tmp_path / "model", sha256="0" * 64
    ).version
    registry.promote("leaves", version)
    look = DriftCheck(int(time.time()) + 1, 0, 9, 60, True, ("brightness moved",))
    DriftHistory((look,)).save(work / "drift" / "leaves" / str(version))
    assert changes(found)[0] == "unchanged"  # a run was only just
    state, reason = changes(found, min_hours=0)
    assert state == "changed" and "found drift" in reason
    assert changes(found, min_hours=0, drift_checks=2)[0] == "unchanged"


def test_changes_remembers_rejections_too(changes, tmp_path):
    found = manifest(tmp_path / "one")
    note(found, tmp_path, version=None)
    assert changes(found)[1].endswith("The last run was rejected.")


def test_a_rejected_run_after_a_search_is_compared_by_the_settings_that_were_asked_for(
    changes, tmp_path, monkeypatch
):
    """With those that the search found, every later retraining would see changed settings."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registries.put_empty(tmp_path / "work")
    made = step_artifacts.to_register(tmp_path / "made", accepted=False)
    given = {name: FakeArtifact(str(folder)) for name, folder in made.items()}
    given |= {"dataset": "d", "model": "leaves", "workspace": str(tmp_path / "work"),
              "settings": SETTINGS.replace("3", "9"), "asked_settings": SETTINGS,
              "registration": FakeArtifact(str(tmp_path / "registration"))}  # fmt: skip
    pod.run(TRAINING.place, ["register"], given)
    state, reason = changes(made["manifest"])
    assert (state, reason.endswith("The last run was rejected.")) == ("unchanged", True)
    assert given["registration"].metadata == {"version": 0}


@pytest.fixture
def deliver(tmp_path, monkeypatch):
    """Runs the step `deliver` of a version in the workspace that was confirmed; gives its sentence."""
    monkeypatch.delenv("PERGOLA_STORE", raising=False)
    work = tmp_path / "work"
    model = work / "models" / "leaves" / "3"
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"graph")
    (model / "variables" / "variables.index").write_bytes(b"weights")
    Confirmation("leaves", 3, None, 0.0).save(tmp_path / "confirmation")
    manifest(tmp_path / "manifest")

    def run(store="", release=False):
        given = {"dataset": "d", "model": "leaves", "workspace": str(work), "store": store,
                 "settings": SETTINGS.replace("3", "9"), "asked_settings": SETTINGS,
                 "release": release}  # fmt: skip
        given |= {
            name: FakeArtifact(str(tmp_path / name)) for name in ("confirmation", "manifest", "delivery")
        }
        pod.run(TRAINING.place, ["deliver"], given)
        return Delivery.load(Path(tmp_path / "delivery")).message

    return run


def test_deliver_without_a_store_leaves_the_version_in_the_workspace(deliver):
    assert "in the workspace only" in deliver()


def test_deliver_puts_a_version_into_the_store_and_makes_it_stable_if_asked(
    deliver, changes, tmp_path, monkeypatch
):
    store = tmp_path / "store"
    store.mkdir()
    assert "`pergola release` gives it requests" in deliver(str(store))
    assert open_store(store).versions("leaves") == [3] and open_store(store).release("leaves").stable is None
    monkeypatch.setenv("PERGOLA_STORE", str(store))
    assert deliver(release=True).endswith("and stable.")
    assert open_store(store).release("leaves").stable == 3
    assert changes(tmp_path / "manifest")[0] == "unchanged"
