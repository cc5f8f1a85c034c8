"""The walk in one process on 120 small pictures, with a real registry and a real server."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from components import artifacts
from components.errors import InputError
from components.evaluation.drift_looks import Look, Looks
from components.evaluation.drift_reference import DriftReference
from components.release.publish import notes_of, sha256_of
from components.release.registry import Registry
from components.release.store import NOTES, open_store
from pipelines import config, lineage, lineage_words, local, retrain, walk
from pipelines.like import Again, Like
from pipelines.show import Quiet
from pipelines.workspace import Workspace
from tests.support import pictures

SMALL = ("train.epochs=8", "model.architecture=cnn_pool", "gate.min_accuracy=0", "gate.min_recall=0",
         "gate.max_gap=1", "gate.max_loss=1", "gate.max_drop=1")  # fmt: skip


def run(photos: Path, workspace: Workspace, *changes: str, **arguments):
    return local.run(photos, config.load(None, (*SMALL, *changes)), workspace, show=Quiet(), **arguments)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return pictures.write_folder(tmp_path_factory.mktemp("data") / "shapes", classes=3, per_class=40, size=16)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("local") / "work")


@pytest.fixture(scope="module")
def first(photos, workspace):
    return run(photos, workspace, command="pergola run shapes")


def test_run_publishes_a_version_that_is_the_champion(first, workspace):
    assert (first.decision, first.version, first.model, first.reused) == ("accepted", 1, "shapes", ())
    assert tuple(first.seconds) == tuple(step for step in local.STEPS if step != "champion")
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
    exported = artifacts.Export.load(_output(workspace, first, "export"))
    assert sha256_of(folder) == exported.sha256
    store = open_store(workspace.root.parent / "store")
    (workspace.root.parent / "store").mkdir()
    store.put(folder, "shapes", 1)
    store.fetch("shapes", 1, workspace.root.parent / "fetched")
    assert DriftReference.load(notes_of(workspace.root.parent / "fetched")) == reference


def test_run_counts_every_picture(first):
    counts = first.counts
    assert counts["images"] == 120
    kept_out = sum(counts["quarantined"].values())
    assert counts["train"] + counts["validation"] + counts["test"] == 120 - kept_out


def test_run_is_recorded_with_settings_and_epochs(first, workspace):
    registry = Registry(workspace.tracking_uri)
    run_id = registry.run(first.run)
    data = registry._client.get_run(run_id).data
    assert data.params["train.epochs"] == "8"
    assert data.metrics["test_accuracy"] == pytest.approx(first.metrics["accuracy"])
    training = artifacts.Training.load(_output(workspace, first, "train"))
    steps = [metric.step for metric in registry._client.get_metric_history(run_id, "loss")]
    assert sorted(steps) == list(range(1, training.epochs + 1))
    assert len(data.tags["pergola.data_fingerprint"]) == 64
    record = workspace.run_record(first.run)
    assert record["state"] == "done" and record["command"] == "pergola run shapes"
    told = json.loads(json.dumps(first.to_json()))
    assert told["version"] == 1
    rules = {rule["name"]: rule for rule in told["rules"]}
    assert rules["latency"]["unit"] == "ms" and rules["accuracy"]["interval"][0] > 0


def test_unchanged_rerun_reuses_everything(first, photos, workspace):
    again = run(photos, workspace)
    assert set(again.reused) == set(first.seconds)
    assert (again.version, again.metrics) == (1, first.metrics)
    assert "Nothing changed" in again.words()


def test_lineage_leads_from_a_version_to_its_images_and_back(first, photos, workspace):
    found = lineage.of_version(workspace, "1")
    images = found["images"]
    assert [images[part] for part in artifacts.PARTS] == [first.counts[part] for part in artifacts.PARTS]
    assert images["files"] == 120 and len(images["fingerprint"]) == 64
    assert found["run"]["id"] == first.run and found["run"]["command"] == "pergola run shapes"
    assert found["release"] == {"published": True, "unchanged": True, "champion": True}
    assert found["decision"]["accuracy"] == first.metrics["accuracy"]
    assert found["requests"]["logged"] == found["drift"]["looks"] == 0 and found["feedback"] is None
    assert "epochs = 8\n" in Path(found["settings"]).read_text()
    assert "120 files in 3 classes" in lineage_words.of_version(found)
    table = artifacts.Split.table(_output(workspace, first, "split")).set_index("path")
    path = table.index[0]
    (seen,) = lineage.of_picture(workspace, str(photos / path))["versions"]
    (file,) = seen["files"]
    assert (seen["version"], file["path"], file["part"]) == (1, path, table.loc[path, "part"])
    by_id = lineage.of_picture(workspace, table.loc[path, "id"])
    assert by_id["versions"] == [seen] and path in lineage_words.of_picture(by_id)
    assert lineage.of_picture(workspace, "0" * 64)["versions"] == []
    with pytest.raises(InputError, match=r"Nothing is known of version '7' .* with a lineage: shapes/1"):
        lineage.place_of(workspace, "7")
    with pytest.raises(InputError, match="is no version, such as 3"):
        lineage.place_of(workspace, "photos/gone.png")


def like(photos: Path, workspace: Workspace, version: str, force: str | None = None):
    model = Like.of(lineage.place_of(workspace, version))
    return local.run(photos, model.settings(), workspace, show=Quiet(), like=model, force=force)


def test_a_version_is_made_again_and_not_released(first, photos, workspace):
    again = like(photos, workspace, "shapes/1")
    assert again.again == Again(1, "accepted", same_decision=True, same_weights=True, trained=False)
    assert "REPRODUCED version 1: accepted as then" in again.words()
    assert "They were not trained again" in again.words()
    assert again.version is None and not {"register", "publish"} & set(again.seconds)
    assert len(Registry(workspace.tracking_uri).versions("shapes")) == 1


def test_a_stricter_gate_rejects_without_training_again(first, photos, workspace):
    rejected = run(photos, workspace, "gate.min_accuracy=1")
    assert (rejected.decision, rejected.version) == ("rejected", None)
    assert len(rejected.reasons) == 1
    redone = set(rejected.seconds) - set(rejected.reused)
    assert redone == {"gate", "report", "register"}
    assert [p.name for p in (workspace.models / "shapes").iterdir() if p.name.isdecimal()] == ["1"]
    assert len(Registry(workspace.tracking_uri).versions("shapes")) == 1


@pytest.mark.slow
def test_costs_redo_the_export_and_not_the_training(first, photos, workspace, tmp_path):
    costs = tmp_path / "costs.csv"
    costs.write_text("true,predicted,cost,ask a person\n*,*,1,0.4\n")
    asked = (f"export.costs={costs}", "gate.min_accuracy=1")
    weighed = run(photos, workspace, *asked)
    redone = set(weighed.seconds) - set(weighed.reused)
    assert redone == {"export", "evaluate", "rehearse", "champion", "gate", "report", "register"}
    assert weighed.metrics["accuracy"] == first.metrics["accuracy"]
    assert weighed.metrics["cost_saved_per_1000"] > 0 and "1,000 pictures cost" in weighed.words()
    decision = artifacts.Decision.load(_output(workspace, weighed, "gate"))
    rules = {rule.name: rule for rule in decision.rules}
    assert rules["champion_cost"].value == 0 and {"expected_cost", "latency", "size"} <= rules.keys()
    costs.write_text("true,predicted,cost\nsquare,*,1\n")
    with pytest.raises(InputError, match=r"costs\.csv, line 2: 'square' is not a class"):
        run(photos, workspace, *asked)


def test_costs_that_cannot_be_read_are_told_before_any_work(photos, tmp_path):
    with pytest.raises(InputError, match=r"none\.csv cannot be read"):
        run(photos, Workspace(tmp_path / "work"), f"export.costs={tmp_path / 'none.csv'}")
    assert not (tmp_path / "work").exists()


def test_weights_that_cannot_be_used_are_told_before_any_work(photos, tmp_path):
    (tmp_path / "text.h5").write_text("not weights")
    with pytest.raises(InputError, match=r"text\.h5 is no HDF5 file"):
        run(photos, Workspace(tmp_path / "work"), f"model.weights={tmp_path / 'text.h5'}",
            "model.architecture=auto")  # fmt: skip
    with pytest.raises(InputError, match="'cnn_pool' takes no pretrained weights"):
        run(photos, Workspace(tmp_path / "work"), "model.weights=imagenet")
    settings = config.load(None, [f"model.weights={tmp_path / 'gone.h5'}"])
    with pytest.raises(InputError, match=r"gone\.h5' is no file"):
        local.validate(photos, settings, Workspace(tmp_path / "work"), show=Quiet())
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_withdrawn_folder_is_published_again(first, photos, workspace):
    from components.release.publish import withdraw

    withdraw(workspace.models, "shapes", 1)
    again = run(photos, workspace)
    assert again.version == 1 and set(again.seconds) - set(again.reused) == {"publish", "confirm"}
    assert Path(again.model_path, "saved_model.pb").is_file()


@pytest.mark.slow
def test_more_pictures_make_a_second_version_beside_the_champion(first, photos, workspace):
    before = _parts(workspace, first)
    for path, image in (("class_0/new.png", 40), ("class_1/new.png", 41)):
        label = int(path[6])
        (photos / path).write_bytes(pictures.png(pictures.pixels(label, image, classes=3, size=16)))
    answer = again(photos, workspace)
    assert answer.trained and answer.reason == "2 pictures changed since the last run."
    second = answer.run
    assert workspace.run_record(second.run)["reason"] == answer.reason
    assert (second.decision, second.version) == ("accepted", 2)
    assert "champion" in second.seconds
    after = _parts(workspace, second)
    assert {id: after[id] for id in before} == before
    confirmation = artifacts.Confirmation.load(_output(workspace, second, "confirm"))
    assert (confirmation.version, confirmation.previous) == (2, 1)
    with pytest.raises(InputError, match=r"not those of version 1 of 'shapes': 2 came and 0 went since"):
        like(photos, workspace, "1")
    assert lineage.of_version(workspace, "2")["run"]["reason"] == answer.reason
    unchanged = again(photos, workspace)
    assert (unchanged.trained, unchanged.run) == (False, None)
    assert unchanged.words().startswith("Not trained. Nothing changed: pictures and settings are those")
    _look_that_found_drift(workspace, version=2)
    waits = again(photos, workspace)
    assert not waits.trained and "found drift. The last run was 0.0 hours ago, 1 are wanted" in waits.reason
    drifted = again(photos, workspace, "retrain.min_hours=0")
    assert (
        drifted.trained
        and drifted.run.version == 2
        and "The last look at requests found drift." in drifted.reason
    )
    assert run(photos, workspace).version == 2
    exported = like(photos, workspace, "2", force="export")
    assert exported.again == Again(2, "accepted", same_decision=True, same_weights=True, trained=False)


def again(photos: Path, workspace: Workspace, *changes: str) -> retrain.RetrainResult:
    return retrain.retrain(photos, config.load(None, (*SMALL, *changes)), workspace, show=Quiet())


def _look_that_found_drift(workspace: Workspace, version: int) -> None:
    look = Look(int(time.time()) + 1, 0, 9, 60, True, ("brightness moved",))
    Looks((look,)).save(workspace.drift("shapes", version))


def test_critical_findings_stop_the_run_and_ship_nothing(tmp_path):
    photos = pictures.write_folder(tmp_path / "photos", classes=2, per_class=40, size=16)
    for path in sorted(photos.rglob("*.png"))[:50]:
        path.write_bytes(b"not a picture")
    workspace = Workspace(tmp_path / "work")
    with pytest.raises(InputError, match=r"The data cannot be used: .*index\.html"):
        run(photos, workspace)
    (failed,) = workspace.run_ids()
    assert workspace.run_record(failed)["state"] == "failed"
    assert not list(workspace.models.iterdir())


def test_validate_looks_and_does_nothing_else(photos, tmp_path):
    found = local.validate(photos, config.Settings(), Workspace(tmp_path / "work"), show=Quiet())
    assert found.ok and Path(found.page).is_file()
    assert not list((tmp_path / "work" / "runs").iterdir())


@pytest.mark.parametrize(
    ("folder", "name"), [("Blätter 2024", "blatter-2024"), ("日本", "pictures"), ("a.tar.gz", "a")]
)
def test_model_name_comes_from_the_data(folder, name):
    assert walk.model_name(Path(folder), config.Settings()) == name


def test_model_name_that_is_none_is_refused():
    settings = config.load(None, ["release.name=my leaves"])
    with pytest.raises(InputError, match="such as 'my-leaves'"):
        walk.model_name(Path("x"), settings)


def _output(workspace: Workspace, result, step: str) -> Path:
    return workspace.steps / step / workspace.run_record(result.run)["steps"][step]["key"]


def _parts(workspace: Workspace, result) -> dict[str, str]:
    table = artifacts.Split.table(_output(workspace, result, "split"))
    return dict(zip(table["id"], table["part"], strict=True))
