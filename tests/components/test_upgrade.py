"""A workspace of 0.1.0, as that version left it (tests/fixtures), used by this version."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from pergola.components import digest, records
from pergola.components import settings as config
from pergola.components.artifacts.data import Split
from pergola.components.errors import InputError
from pergola.components.evaluation.drift.history import DriftHistory
from pergola.components.evaluation.drift.reference import DriftReference
from pergola.components.release import provenance
from pergola.components.release.registry.lookup import champion_of
from pergola.components.store.model_store import open_store
from pergola.components.store.publish import notes_of
from pergola.components.upgrade import BACKUP
from pergola.components.workspace import LAYOUT, Workspace
from pergola.pipelines.local import run as local
from pergola.pipelines.local.progress import SilentDisplay
from pergola.pipelines.monitoring import lineage
from tests.support.images import pixels, png, write_folder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "workspace-0.1.0.tar.xz"


@pytest.fixture
def old(tmp_path) -> Path:
    """The folder in which somebody used 0.1.0: a workspace, a store, settings, schedules."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def workspace(old) -> Workspace:
    found = Workspace(old / "pergola-work")
    found.require()
    return found


def test_what_changes_is_kept_as_it_was(old):
    before = {path: path.read_bytes() for path in (old / "pergola-work").rglob("*") if path.is_file()}
    workspace = Workspace(old / "pergola-work")
    workspace.require()
    assert json.loads((workspace.root / "pergola.json").read_text()) == {"layout": LAYOUT}
    backup = workspace.root / BACKUP.format(layout=1)
    for path, content in before.items():
        name = path.relative_to(workspace.root)
        places = (workspace.root / name, backup / name, _moved(workspace.root / name))
        assert content in [place.read_bytes() for place in places if place.is_file()], name


def _moved(path: Path) -> Path:
    """The new place of a feedback image."""
    return Path(str(path).replace("/pictures/", "/images/"))


def test_an_upgrade_can_be_repeated_after_a_kill(old):
    workspace = Workspace(old / "pergola-work")
    workspace.require()
    first = {p: digest.of_file(p) for p in workspace.root.rglob("*") if p.is_file()}
    records.write_atomic(workspace.root / "pergola.json", '{"layout": 1}\n')
    workspace.require()
    assert first == {p: digest.of_file(p) for p in workspace.root.rglob("*") if p.is_file()}


def test_the_volume_of_a_pipeline_is_upgraded_too(old):
    workspace = Workspace(old / "pergola-work")
    (workspace.root / "pergola.json").unlink()  # pods make none
    workspace.require()
    assert len(provenance.ids(workspace.version("shapes", 1))) == 120


def test_the_champion_its_drift_reference_and_its_provenance_are_read(workspace):
    champion = champion_of(workspace.tracking_uri, "shapes")
    assert champion is not None and (champion.version, champion.status) == (1, "published")
    reference = DriftReference.load(notes_of(workspace.models / "shapes" / "1"))
    assert reference.num_images == 13
    found = lineage.of_version(workspace, "shapes/1")
    assert found["images"]["files"] == 120 and found["drift"]["checks"] == 1
    ids = provenance.ids(workspace.version("shapes", 1))
    assert len(ids) == 120
    (row,) = provenance.images(workspace.version("shapes", 1), min(ids))
    assert row["split"] in ("train", "validation", "test") and row["excluded"] is None
    assert DriftHistory.of(workspace.drift("shapes", 1)).drifted == 1
    (line,) = (workspace.feedback("shapes") / "labels.csv").read_text().splitlines()[1:]
    assert (workspace.feedback("shapes") / line.split(",")[0]).is_file()


def test_splits_are_still_those_of_the_settings_that_made_them(old, workspace):
    """Those of other settings count as none, and the images of the test split would move."""
    made = config.load(old / "pergola.toml").split
    rule = digest.of_data([made.seed, made.validation, made.test]).encode()
    (kept,) = workspace.state("shapes").glob("split-*")
    for folder in (kept, workspace.version("shapes", 1)):
        assert pyarrow.parquet.read_schema(folder / "split.parquet").metadata[b"pergola.rule"] == rule


def test_settings_of_the_old_names_are_read_with_a_warning(old, caplog):
    settings = config.load(old / "pergola.toml")
    assert settings.smoke_test.rounds == 1 and settings.retrain.min_images == 2
    assert "'rehearse' is now called 'smoke_test'" in caplog.text
    assert "'min_pictures' is now called 'min_images'" in caplog.text


@pytest.mark.slow
def test_the_models_of_the_store_verify_and_serve(old):
    from pergola.components.evaluation.loaded_model import LoadedModel

    store = open_store(old / "store")
    assert store.versions("shapes") == [1] and store.release("shapes").stable == 1
    store.fetch("shapes", 1, old / "fetched")
    with LoadedModel(old / "fetched") as model:
        answer = model.probabilities([png(pixels(0, 0, classes=3, size=16))])
        assert model.labels() == ("class_0", "class_1", "class_2")
    assert np.asarray(answer).shape == (1, 3) and np.isclose(np.sum(answer), 1)


@pytest.mark.slow
def test_the_next_run_does_its_steps_again_and_keeps_the_split(old, workspace):
    dataset = write_folder(old / "shapes", classes=3, per_class=40, size=16)
    before = Split.table(next((workspace.root / "steps" / "split").glob("*/split.parquet")).parent)
    result = local.run(dataset, config.load(old / "pergola.toml"), workspace, show=SilentDisplay())
    assert (result.decision, result.version) == ("accepted", 2)
    after = Split.table(workspace.steps / "split" / workspace.run_record(result.run)["steps"]["split"]["key"])
    moved = before.rename(columns={"part": "split"}).merge(after, on="id")
    assert len(moved) == len(before) and (moved["split_x"] == moved["split_y"]).all()


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('{"layout": 99}', "has layout 99, which a newer pergola made"),
        ("{}", "does not say which layout"),
        ("not json", "does not say which layout"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(old, marker, message):
    (old / "pergola-work" / "pergola.json").write_text(marker)
    with pytest.raises(InputError, match=message):
        Workspace(old / "pergola-work").require()


def test_two_upgrades_at_once_are_one_after_the_other(old):
    workspace = Workspace(old / "pergola-work")
    with workspace.lock("somebody else"), pytest.raises(InputError, match="is in use by somebody else"):
        workspace.require()
    workspace.require()
    shutil.rmtree(workspace.root)
