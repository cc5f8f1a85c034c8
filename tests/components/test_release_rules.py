"""Champion, split of the last run, registry and provenance, as every engine's runs have them.

The steps themselves, with a real SQLite registry and artifacts made by hand.
"""

import dataclasses
import json

import pandas as pd
import pytest

from pergola.components import digest
from pergola.components.artifacts.data import (
    SPLITS,
    Split,
)
from pergola.components.artifacts.decision import (
    ACCEPTED,
    HELD,
    REJECTED,
    Decision,
)
from pergola.components.artifacts.release import Champion, Registration
from pergola.components.artifacts.training import Export
from pergola.components.release import provenance
from pergola.components.release.last_run import LastRun
from pergola.components.release.registry.lookup import champion_of
from pergola.components.release.registry.registry import Registry
from pergola.components.settings import Settings, from_toml
from pergola.components.steps import data, model, release
from pergola.components.steps.context import Context, RunInfo
from pergola.components.workspace import Workspace
from tests.support import registries, step_artifacts


@pytest.fixture(autouse=True)
def registry(tmp_path):
    registries.put_empty(tmp_path / "work")


@pytest.fixture
def context(tmp_path):
    """Of a run that releases "leaves"."""
    return context_of(tmp_path, "run-1")


def context_of(tmp_path, run, **settings):
    return Context(
        tmp_path / "dataset", "leaves", Settings.of(settings), Workspace(tmp_path / "work"),
        RunInfo(run, "pergola run leaves", "new images"),
    )  # fmt: skip


def mlflow_runs(context):
    registry = Registry(context.workspace.tracking_uri)
    return registry._client.search_runs([registry.runs._experiment])


# --- the champion


@pytest.fixture
def released(context, tmp_path):
    """Versions 1 and 2 of "leaves"; 2 is the champion. Gives their exports."""
    registry = Registry(context.workspace.tracking_uri)
    exports = []
    for version in (1, 2):
        export = step_artifacts.export(tmp_path / f"export-{version}", f"weights {version}".encode())
        sha256 = Export.load(export).sha256
        run = registry.runs.open(f"run-{version}", "leaves")
        registry.register("leaves", run, export / "saved_model", sha256=sha256)
        registry.promote("leaves", version)
        (context.workspace.models / "leaves" / str(version)).mkdir(parents=True)
        exports.append(export)
    return exports


def version_to_beat(context, export, tmp_path):
    found = model.champion(context, tmp_path / "champion", export)
    assert Champion.load(tmp_path / "champion") == found
    return found


def test_a_candidate_is_compared_with_the_champion(context, released, tmp_path):
    candidate = step_artifacts.export(tmp_path / "candidate", b"new weights")
    assert version_to_beat(context, candidate, tmp_path) == Champion(2, Export.load(released[1]).sha256)


def test_a_champion_that_is_this_very_model_gives_way_to_the_one_before(context, released, tmp_path):
    assert version_to_beat(context, released[1], tmp_path) == Champion(1, Export.load(released[0]).sha256)


def test_the_only_version_is_not_compared_with_itself(context, tmp_path):
    registry = Registry(context.workspace.tracking_uri)
    export = step_artifacts.export(tmp_path / "export")
    registry.register(
        "leaves", registry.runs.open("r"), export / "saved_model", sha256=Export.load(export).sha256
    )
    registry.promote("leaves", 1)
    (context.workspace.models / "leaves" / "1").mkdir(parents=True)
    assert version_to_beat(context, export, tmp_path) == Champion(None)


def test_a_champion_whose_folder_is_gone_is_published_again(context, released, tmp_path):
    folder = context.workspace.models / "leaves" / "2"
    folder.rmdir()
    candidate = step_artifacts.export(tmp_path / "candidate", b"new weights")
    assert version_to_beat(context, candidate, tmp_path) == Champion(2, Export.load(released[1]).sha256)
    assert (folder / "saved_model.pb").read_bytes() == (
        released[1] / "saved_model/saved_model.pb"
    ).read_bytes()


# --- the split of the last run


def assign(context, folder, count):
    validation = step_artifacts.validation(folder / "validation")
    data.split(context, folder / "split", step_artifacts.manifest(folder / "manifest", count), validation)
    return dict(Split.table(folder / "split", ["id", "split"]).values)


def exchange(folder, one, other):
    """Have the images of two splits change places in a stored split."""
    import pyarrow as pa
    import pyarrow.parquet

    file = folder / "split.parquet"
    schema = pyarrow.parquet.read_schema(file)
    rows = pd.read_parquet(file)
    rows["split"] = rows["split"].replace({one: other, other: one})
    pyarrow.parquet.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), file)


def test_images_of_the_last_run_stay_in_their_splits(context, tmp_path):
    """The last run's record says otherwise than the hash of the images: the record counts."""
    first = assign(context, tmp_path / "first", 40)
    assert set(first.values()) == set(SPLITS)
    (kept,) = context.workspace.state("leaves").glob("split-*")
    exchange(kept, "test", "validation")
    swapped = {id: {"test": "validation", "validation": "test"}.get(part, part) for id, part in first.items()}
    second = assign(context, tmp_path / "second", 60)
    assert {id: second[id] for id in first} == swapped and len(second) == 60
    third = assign(context, tmp_path / "third", 80)
    assert {id: third[id] for id in second} == second


def test_other_split_settings_have_a_last_split_of_their_own(tmp_path):
    first = assign(context_of(tmp_path, "run-1"), tmp_path / "first", 60)
    other = context_of(tmp_path, "run-2", split={"seed": 7})
    assert assign(other, tmp_path / "second", 60) != first
    assert assign(context_of(tmp_path, "run-3"), tmp_path / "third", 60) == first


# --- the registry


def register(tmp_path, run, name, **decided):
    context, out = context_of(tmp_path, run), tmp_path / f"registration-{name}"
    found = release.register(context, out, **step_artifacts.to_register(tmp_path / name, **decided))
    assert found is None or Registration.load(out) == found
    return context, found


def test_the_same_model_with_the_same_verdict_takes_one_version_whoever_tries(tmp_path):
    """A second try and a second run have ids and latencies of their own."""
    _, first = register(tmp_path, "run-1", "first", latency=5.0)
    context, again = register(tmp_path, "run-2", "again", latency=6.5)
    assert first == again and again.version == 1
    assert len(mlflow_runs(context)) == 1


@pytest.mark.parametrize(
    "other", [{"champion": 1}, {"accuracy": "Accuracy is 91%."}, {"weights": b"other"}, {"accepted": False}]
)
def test_another_verdict_or_model_is_another_run(tmp_path, other):
    _, first = register(tmp_path, "run-1", "first")
    context, second = register(tmp_path, "run-1", "second", **other)
    runs = mlflow_runs(context)
    assert len(runs) == 2
    if other.get("accepted", True):
        assert (first.version, second.version) == (1, 2) and first.mlflow_run != second.mlflow_run
    else:
        assert second is None
        assert {run.data.tags["pergola.decision"] for run in runs} == {"accepted", "rejected"}


def test_a_held_model_takes_a_number_and_provenance_and_leaves_the_champion(tmp_path):
    context, first = register(tmp_path, "run-1", "first")
    Registry(context.workspace.tracking_uri).promote("leaves", first.version)
    _, held = register(tmp_path, "run-2", "held", outcome=HELD)
    assert held.version == 2 and Decision.load(context.workspace.version("leaves", 2)).outcome == HELD
    assert champion_of(context.workspace.tracking_uri, "leaves").version == 1
    assert {run.data.tags["pergola.decision"] for run in mlflow_runs(context)} == {ACCEPTED, HELD}


def test_a_run_on_a_cluster_that_is_held_is_noted_with_its_version(tmp_path):
    context = dataclasses.replace(context_of(tmp_path, "run-1"), store="")
    release.register(context, tmp_path / "out", **step_artifacts.to_register(tmp_path / "x", outcome=HELD))
    last = LastRun.load(context.workspace.state("leaves"))
    assert (last.decision, last.version) == (HELD, 1)


@pytest.mark.parametrize(("accepted", "outcome"), [(True, ACCEPTED), (False, REJECTED)])
def test_a_decision_of_the_release_before_has_an_outcome(tmp_path, accepted, outcome):
    old = {"schema": "Decision/1", "accepted": accepted, "rules": [], "reasons": [], "champion": None}
    (tmp_path / "decision.json").write_text(json.dumps(old))
    found = Decision.load(tmp_path)
    assert (found.outcome, found.accepted) == (outcome, accepted)


def test_a_decision_cannot_contradict_itself():
    with pytest.raises(ValueError, match="'held' cannot have accepted=True"):
        Decision(True, (), (), None, HELD)


def test_other_settings_are_another_run(tmp_path):
    register(tmp_path, "run-1", "first")
    other = context_of(tmp_path, "run-1", train={"epochs": 3})
    release.register(other, tmp_path / "out", **step_artifacts.to_register(tmp_path / "second"))
    assert len(mlflow_runs(other)) == 2


# --- provenance


def test_a_registered_version_has_its_provenance(tmp_path):
    context, registration = register(tmp_path, "run-1", "first")
    place = context.workspace.version("leaves", registration.version)
    origin = provenance.Provenance.load(place)
    assert (origin.model, origin.version, origin.run) == ("leaves", 1, "run-1")
    assert (origin.command, origin.reason) == ("pergola run leaves", "new images")
    assert origin.source == str(context.dataset) and origin.code and origin.released_s
    assert from_toml((place / provenance.SETTINGS).read_text()) == context.settings
    assert provenance.ids(place) == {step_artifacts.id_of(number) for number in range(40)}
    (row,) = provenance.images(place, step_artifacts.id_of(0))
    assert (row["label"], row["split"]) == ("a", "test")
    for name in ("manifest", "validation", "split", "training", "export", "evaluation", "decision"):
        stored = digest.of_file(place / f"{name}.json")
        assert stored == digest.of_file(tmp_path / "first" / name / f"{name}.json"), name
    assert Registration.load(place) == registration


def test_a_rejected_model_has_no_version_and_no_provenance(tmp_path):
    context, registration = register(tmp_path, "run-1", "first", accepted=False)
    assert registration is None and not context.workspace.versions.exists()


def test_registration_is_done_again_when_the_provenance_is_gone(tmp_path):
    context, registration = register(tmp_path, "run-1", "first")
    out = tmp_path / "registration-first"
    assert release.is_registered(context, out)
    (context.workspace.version("leaves", registration.version) / provenance.Provenance.FILE).unlink()
    assert not release.is_registered(context, out)
