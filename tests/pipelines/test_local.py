"""The pipeline in one process on 120 small images, with a real registry and a real server."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from pergola.components import settings as config
from pergola.components.artifacts.data import SPLITS, Split
from pergola.components.artifacts.decision import HELD_BY_REQUEST, Decision
from pergola.components.artifacts.release import Confirmation, Registration
from pergola.components.artifacts.training import Export, Training
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.history import DriftCheck, DriftHistory
from pergola.components.evaluation.drift.reference import DriftReference
from pergola.components.release.champions import live_version
from pergola.components.release.registry.registry import Registry
from pergola.components.store.checksums import NOTES
from pergola.components.store.model_store import open_store
from pergola.components.store.publish import notes_of, sha256_of
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import TRAINING
from pergola.pipelines.local import run as local
from pergola.pipelines.local.progress import SilentDisplay
from pergola.pipelines.local.reproduce import OriginalVersion, Reproduction
from pergola.pipelines.monitoring import lineage, lineage_summary, retrain
from tests.support import images as image_files

SMALL = ("train.epochs=8", "model.architecture=cnn_pool", "gate.min_accuracy=0", "gate.min_recall=0",
         "gate.max_gap=1", "gate.max_loss=1", "gate.max_drop=1")  # fmt: skip


def run(dataset: Path, workspace: Workspace, *changes: str, **arguments):
    return local.run(
        dataset, config.load(None, (*SMALL, *changes)), workspace, show=SilentDisplay(), **arguments
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return image_files.write_folder(
        tmp_path_factory.mktemp("data") / "shapes", classes=3, per_class=40, size=16
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("local") / "work")


@pytest.fixture(scope="module")
def first(dataset, workspace):
    return run(dataset, workspace, command="pergola run shapes")


def test_run_publishes_a_version_that_is_the_champion(first, workspace):
    assert (first.decision, first.version, first.model, first.reused) == ("accepted", 1, "shapes", ())
    assert tuple(first.seconds) == tuple(step.name for step in TRAINING.steps if step.local)
    assert Path(first.model_path, "saved_model.pb").is_file()
    champion = Registry(workspace.tracking_uri).champion("shapes")
    assert champion is not None and champion.version == 1 and champion.status == "published"
    assert "<html" in Path(first.report).read_text()


def test_run_keeps_the_reference_of_drift_with_the_version(first, workspace):
    folder = workspace.models / "shapes" / "1"
    reference = DriftReference.load(notes_of(folder))
    sample = DriftReference.sample(notes_of(folder))
    assert reference.num_images == len(sample) == first.counts["test"] and reference.width > 0
    assert f"{NOTES}/{DriftReference.FILE}" in (folder / "checksums.sha256").read_text()
    exported = Export.load(_output(workspace, first, "export"))
    assert sha256_of(folder) == exported.sha256
    store = open_store(workspace.root.parent / "store")
    (workspace.root.parent / "store").mkdir()
    store.put(folder, "shapes", 1)
    store.fetch("shapes", 1, workspace.root.parent / "fetched")
    assert DriftReference.load(notes_of(workspace.root.parent / "fetched")) == reference


def test_run_counts_every_image(first):
    counts = first.counts
    assert counts["images"] == 120
    excluded = sum(counts["quarantined"].values())
    assert counts["train"] + counts["validation"] + counts["test"] == 120 - excluded


def test_run_is_recorded_with_settings_and_epochs(first, workspace):
    registry = Registry(workspace.tracking_uri)
    run_id = Registration.load(_output(workspace, first, "register")).mlflow_run
    data = registry._client.get_run(run_id).data
    assert data.params["train.epochs"] == "8"
    assert data.metrics["test_accuracy"] == pytest.approx(first.metrics["accuracy"])
    training = Training.load(_output(workspace, first, "train"))
    steps = [metric.step for metric in registry._client.get_metric_history(run_id, "loss")]
    assert sorted(steps) == list(range(1, training.epochs + 1))
    assert len(data.tags["pergola.data_fingerprint"]) == 64 and data.tags["pergola.run_id"] == first.run
    record = workspace.run_record(first.run)
    assert record["state"] == "done" and record["command"] == "pergola run shapes"
    told = json.loads(json.dumps(first.to_json()))
    assert told["version"] == 1
    rules = {rule["name"]: rule for rule in told["rules"]}
    assert rules["latency"]["unit"] == "ms" and rules["accuracy"]["interval"][0] > 0


def test_unchanged_rerun_reuses_everything(first, dataset, workspace):
    again = run(dataset, workspace)
    assert set(again.reused) == set(first.seconds)
    assert (again.version, again.metrics) == (1, first.metrics)
    assert "Nothing changed" in again.summary()


def test_lineage_leads_from_a_version_to_its_images_and_back(first, dataset, workspace):
    found = lineage.of_version(workspace, "1")
    images = found["images"]
    assert [images[part] for part in SPLITS] == [first.counts[part] for part in SPLITS]
    assert images["files"] == 120 and len(images["fingerprint"]) == 64
    assert found["run"]["id"] == first.run and found["run"]["command"] == "pergola run shapes"
    assert found["release"] == {"published": True, "unchanged": True, "champion": True}
    assert found["decision"]["accuracy"] == first.metrics["accuracy"]
    assert found["requests"]["logged"] == found["drift"]["checks"] == 0 and found["feedback"] is None
    assert "epochs = 8\n" in Path(found["settings"]).read_text()
    assert "120 files in 3 classes" in lineage_summary.of_version(found)
    table = Split.table(_output(workspace, first, "split")).set_index("path")
    path = table.index[0]
    (seen,) = lineage.of_image(workspace, str(dataset / path))["versions"]
    (file,) = seen["files"]
    assert (seen["version"], file["path"], file["split"]) == (1, path, table.loc[path, "split"])
    by_id = lineage.of_image(workspace, table.loc[path, "id"])
    assert by_id["versions"] == [seen] and path in lineage_summary.of_image(by_id)
    assert lineage.of_image(workspace, "0" * 64)["versions"] == []
    with pytest.raises(InputError, match=r"There is no record of version '7' .* with a lineage: shapes/1"):
        lineage.provenance_folder(workspace, "7")
    with pytest.raises(InputError, match="is neither a version, such as 3"):
        lineage.provenance_folder(workspace, "photos/gone.png")


def reproduce(dataset: Path, workspace: Workspace, version: str, force: str | None = None):
    model = OriginalVersion.of(lineage.provenance_folder(workspace, version))
    return local.run(dataset, model.settings(), workspace, show=SilentDisplay(), reproduce=model, force=force)


@pytest.mark.slow
def test_a_version_is_reproduced_and_not_released(first, dataset, workspace):
    again = reproduce(dataset, workspace, "shapes/1")
    assert again.reproduction == Reproduction(
        1, "accepted", same_decision=True, same_weights=True, trained=False
    )
    assert "REPRODUCED version 1: accepted again" in again.summary()
    assert "The model was not trained again" in again.summary()
    assert again.version is None and not {"register", "publish"} & set(again.seconds)
    assert len(Registry(workspace.tracking_uri).versions("shapes")) == 1


@pytest.mark.slow
def test_a_stricter_gate_rejects_without_training_again(first, dataset, workspace):
    rejected = run(dataset, workspace, "gate.min_accuracy=1")
    assert (rejected.decision, rejected.version) == ("rejected", None)
    assert len(rejected.reasons) == 1
    redone = set(rejected.seconds) - set(rejected.reused)
    assert redone == {"gate", "report", "register"}
    assert [p.name for p in (workspace.models / "shapes").iterdir() if p.name.isdecimal()] == ["1"]
    assert len(Registry(workspace.tracking_uri).versions("shapes")) == 1


@pytest.mark.slow
def test_a_run_that_is_not_to_release_is_held_and_the_next_releases_the_same_version(
    first, dataset, workspace, tmp_path
):
    copy = Workspace(shutil.copytree(workspace.root, tmp_path / "work"))
    held = run(dataset, copy, "gate.max_drop=0.9", release=False)
    assert (held.outcome, held.version, held.champion, held.reasons) == ("held", 2, 1, (HELD_BY_REQUEST,))
    assert "HELD: shapes version 2 is registered; version 1 is the champion." in held.summary()
    assert held.to_json()["decision"] == "held" and not {"publish", "confirm"} & set(held.seconds)
    assert copy.run_record(held.run)["outcome"] == "held"
    assert "Held" in Path(held.report).read_text() and not (copy.models / "shapes" / "2").exists()
    assert live_version(copy, "shapes") == 1 and Registry(copy.tracking_uri).champion("shapes").version == 1
    released = run(dataset, copy, "gate.max_drop=0.9")
    assert (released.outcome, released.version, released.champion) == ("accepted", 2, 2)
    assert Decision.load(copy.version("shapes", 2)).outcome == "accepted"
    history = open_store(copy.models).release("shapes").history
    assert [(event.stable, "run" in event.why) for event in history] == [(1, True), (2, True)]


@pytest.mark.slow
def test_costs_redo_the_export_and_not_the_training(first, dataset, workspace, tmp_path):
    costs = tmp_path / "costs.csv"
    costs.write_text("true,predicted,cost,ask a person\n*,*,1,0.4\n")
    asked = (f"export.costs={costs}", "gate.min_accuracy=1")
    weighed = run(dataset, workspace, *asked)
    redone = set(weighed.seconds) - set(weighed.reused)
    assert redone == {
        "export",
        "champion",
        "evaluate",
        "smoke_test",
        "evaluate_champion",
        "gate",
        "report",
        "register",
    }
    assert weighed.metrics["accuracy"] == first.metrics["accuracy"]
    assert weighed.metrics["cost_saved_per_1000"] > 0 and "1,000 images cost" in weighed.summary()
    decision = Decision.load(_output(workspace, weighed, "gate"))
    rules = {rule.name: rule for rule in decision.rules}
    assert rules["champion_cost"].value == 0 and {"expected_cost", "latency", "size"} <= rules.keys()
    costs.write_text("true,predicted,cost\nsquare,*,1\n")
    with pytest.raises(InputError, match=r"costs\.csv, line 2: 'square' is not a class"):
        run(dataset, workspace, *asked)


def test_costs_that_cannot_be_read_are_told_before_any_work(dataset, tmp_path):
    with pytest.raises(InputError, match=r"none\.csv cannot be read"):
        run(dataset, Workspace(tmp_path / "work"), f"export.costs={tmp_path / 'none.csv'}")
    assert not (tmp_path / "work").exists()


def test_weights_that_cannot_be_used_are_told_before_any_work(dataset, tmp_path):
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(InputError, match=r"text\.h5 is no HDF5 file"):
        run(dataset, Workspace(tmp_path / "work"), f"model.weights={tmp_path / 'text.h5'}",
            "model.architecture=auto")  # fmt: skip
    with pytest.raises(InputError, match="'cnn_pool' takes no pretrained weights"):
        run(dataset, Workspace(tmp_path / "work"), "model.weights=imagenet")
    settings = config.load(None, [f"model.weights={tmp_path / 'gone.h5'}"])
    with pytest.raises(InputError, match=r"gone\.h5' is no file"):
        local.validate(dataset, settings, Workspace(tmp_path / "work"), show=SilentDisplay())
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_withdrawn_folder_is_published_again(first, dataset, workspace):
    from pergola.components.store.publish import withdraw

    withdraw(workspace.models, "shapes", 1)
    again = run(dataset, workspace)
    assert again.version == 1 and set(again.seconds) == set(again.reused) | {"champion"}
    assert Path(again.model_path, "saved_model.pb").is_file()


@pytest.mark.slow
def test_more_images_make_a_second_version_beside_the_champion(first, dataset, workspace):
    before = _parts(workspace, first)
    for path, image in (("class_0/new.png", 40), ("class_1/new.png", 41)):
        label = int(path[6])
        (dataset / path).write_bytes(image_files.png(image_files.pixels(label, image, classes=3, size=16)))
    answer = again(dataset, workspace)
    assert answer.trained and answer.reason == "2 images changed since the last run."
    second = answer.run
    assert workspace.run_record(second.run)["reason"] == answer.reason
    assert (second.decision, second.version) == ("accepted", 2)
    assert "champion" in second.seconds
    after = _parts(workspace, second)
    assert {id: after[id] for id in before} == before
    confirmation = Confirmation.load(_output(workspace, second, "confirm"))
    assert (confirmation.version, confirmation.previous) == (2, 1)
    with pytest.raises(
        InputError, match=r"not those of version 1 of 'shapes': 2 were added and 0 removed since"
    ):
        reproduce(dataset, workspace, "1")
    assert lineage.of_version(workspace, "2")["run"]["reason"] == answer.reason
    unchanged = again(dataset, workspace)
    assert (unchanged.trained, unchanged.run) == (False, None)
    assert unchanged.summary().startswith("Not trained. Nothing changed: images and settings are those")
    _look_that_found_drift(workspace, version=2)
    waits = again(dataset, workspace)
    assert (
        not waits.trained
        and "found drift. The last run was 0.0 hours ago; at least 1 must pass" in waits.reason
    )
    drifted = again(dataset, workspace, "retrain.min_hours=0")
    assert (
        drifted.trained
        and drifted.run.version == 2
        and "The last check of requests found drift." in drifted.reason
    )
    assert run(dataset, workspace).version == 2
    exported = reproduce(dataset, workspace, "2", force="export")
    assert exported.reproduction == Reproduction(
        2, "accepted", same_decision=True, same_weights=True, trained=False
    )


def again(dataset: Path, workspace: Workspace, *changes: str) -> retrain.RetrainResult:
    return retrain.retrain(dataset, config.load(None, (*SMALL, *changes)), workspace, show=SilentDisplay())


def _look_that_found_drift(workspace: Workspace, version: int) -> None:
    look = DriftCheck(int(time.time()) + 1, 0, 9, 60, True, ("brightness moved",))
    DriftHistory((look,)).save(workspace.drift("shapes", version))


def test_critical_findings_stop_the_run_and_ship_nothing(tmp_path):
    dataset = image_files.write_folder(tmp_path / "dataset", classes=2, per_class=40, size=16)
    for path in sorted(dataset.rglob("*.png"))[:50]:
        path.write_bytes(b"not an image")
    workspace = Workspace(tmp_path / "work")
    with pytest.raises(InputError, match=r"The data cannot be used: .*index\.html"):
        run(dataset, workspace)
    (failed,) = workspace.run_ids()
    assert workspace.run_record(failed)["state"] == "failed"
    assert not list(workspace.models.iterdir())


def test_validate_looks_and_does_nothing_else(dataset, tmp_path):
    found = local.validate(dataset, config.Settings(), Workspace(tmp_path / "work"), show=SilentDisplay())
    assert found.ok and Path(found.page).is_file()
    assert not list((tmp_path / "work" / "runs").iterdir())


@pytest.mark.parametrize(
    ("folder", "name"), [("Blätter 2024", "blatter-2024"), ("日本", "images"), ("a.tar.gz", "a")]
)
def test_model_name_comes_from_the_data(folder, name):
    assert local.model_name(Path(folder), config.Settings()) == name


def test_model_name_that_is_none_is_refused():
    settings = config.load(None, ["release.name=my leaves"])
    with pytest.raises(InputError, match="such as 'my-leaves'"):
        local.model_name(Path("x"), settings)


def _output(workspace: Workspace, result, step: str) -> Path:
    return workspace.steps / step / workspace.run_record(result.run)["steps"][step]["key"]


def _parts(workspace: Workspace, result) -> dict[str, str]:
    table = Split.table(_output(workspace, result, "split"))
    return dict(zip(table["id"], table["split"], strict=True))
