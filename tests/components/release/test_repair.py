"""Models and registry after something was damaged or lost: brought back from the other, or a sentence."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from pergola.components import digest
from pergola.components.errors import StepError
from pergola.components.release import repair
from pergola.components.release.registry.lookup import champion_of, version_of
from pergola.components.release.registry.registry import Registry
from pergola.components.release.registry.runs import is_intact
from pergola.components.store.publish import damage_of, publish, published
from pergola.components.workspace import Workspace
from pergola.pipelines.release import versions as listing
from tests.support import registries
from tests.support.damage import flip
from tests.support.versions import saved_model


def release(workspace: Workspace, model: Path, notes: Path, version: int) -> None:
    registry, sha256 = Registry(workspace.tracking_uri), digest.of_folder(model)
    run = registry.runs.open(f"run-{version}")
    report = notes.parent / "report.html"
    report.write_text("<html>")
    registry.runs.log(run, files=(report,))
    assert registry.register("leaves", run, model, sha256=sha256).version == version
    publish(model, workspace.models, "leaves", version, notes=notes, registered=sha256)
    registry.promote("leaves", version)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A workspace with two versions, the second of which is the champion."""
    folder = tmp_path_factory.mktemp("repair")
    (folder / "notes").mkdir()
    for name in ("reference.json", "reference.parquet"):
        (folder / "notes" / name).write_text(f"what {name} holds")
    workspace = Workspace(folder / "work")
    workspace.create()
    registries.put_empty(workspace.root)
    for version in (1, 2):
        release(workspace, saved_model(folder / f"model-{version}", f"v{version}"), folder / "notes", version)
    return workspace.root


@pytest.fixture
def workspace(sound, tmp_path) -> Workspace:
    return Workspace(shutil.copytree(sound, tmp_path / "work"))


def champion(workspace: Workspace):
    found = champion_of(workspace.tracking_uri, "leaves")
    return found and found.version


def copy_of(workspace: Workspace, version: int) -> Path:
    """The registry's copy of a version's model."""
    known = version_of(workspace.tracking_uri, "leaves", version)
    return workspace.root / "mlartifacts" / known.run / "artifacts" / f"model-{known.sha256[:12]}"


def repaired(workspace: Workspace) -> list[str]:
    said: list[str] = []
    listing.repair(workspace, None, said.append)
    return said


@pytest.mark.parametrize(
    "file",
    [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "assets.extra/grüße und mehr.txt",
        "checksums.sha256",
        "assets.extra/pergola/reference.json",
        "",  # the whole folder is gone
    ],
)
def test_a_damaged_version_is_set_aside_and_published_again(workspace, file):
    folder = workspace.models / "leaves" / "2"
    whole = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if file:
        flip(folder / file)
        rows = listing.versions(workspace)["models"][0]["versions"]
        assert "checksums.sha256" in rows[0]["damage"] and rows[1]["damage"] == ""
    else:
        shutil.rmtree(folder)
    assert "pergola versions --repair" in listing.table(listing.versions(workspace))
    (said,) = repaired(workspace)
    assert said.startswith("Version 2 of 'leaves' was damaged: ") and "It was published again" in said
    assert (workspace.root / "quarantine" / "leaves" / "2").exists() == bool(file)
    assert not damage_of(folder, version_of(workspace.tracking_uri, "leaves", 2).sha256)
    lost = {Path(file)} if "pergola" in file else set()
    now = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if lost:
        assert "without its reference.json, which `pergola run` makes again" in said
        assert now.keys() == whole.keys() - lost
    elif file not in ("checksums.sha256", ""):
        assert now == whole
    assert champion(workspace) == 2 and repaired(workspace) == []


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"\xff")])
def test_models_config_is_written_anew(workspace, damage):
    repair.champion(workspace, "leaves")
    text = workspace.models_config.read_text()
    assert "versions: 2" in text and str(workspace.models) in text
    damage(workspace.models_config)
    repair.champion(workspace, "leaves")
    assert workspace.models_config.read_text() == text


def test_a_folder_is_set_aside_as_often_as_it_is_damaged(workspace):
    for count in (1, 2):
        flip(workspace.models / "leaves" / "2" / "saved_model.pb")
        repaired(workspace)
        assert len(list((workspace.root / "quarantine" / "leaves").iterdir())) == count


def test_without_a_sound_copy_the_champion_before_it_takes_its_place(workspace):
    flip(workspace.models / "leaves" / "2" / "saved_model.pb")
    flip(copy_of(workspace, 2) / "saved_model.pb")
    (said,) = repaired(workspace)
    assert "The registry's copy of version 2 is damaged, too. Version 1 is the champion." in said
    assert published(workspace.models, "leaves") == [1] and champion(workspace) == 1


def test_champion_is_never_a_damaged_version(workspace):
    assert repair.champion(workspace, "leaves").version == 2
    flip(workspace.models / "leaves" / "2" / "saved_model.pb")
    assert repair.champion(workspace, "leaves").version == 2  # published again
    flip(workspace.models / "leaves" / "2" / "saved_model.pb")
    shutil.rmtree(copy_of(workspace, 2))
    assert repair.champion(workspace, "leaves").version == 1
    flip(workspace.models / "leaves" / "1" / "saved_model.pb")
    shutil.rmtree(copy_of(workspace, 1))
    assert repair.champion(workspace, "leaves") is None
    assert published(workspace.models, "leaves") == []


@pytest.mark.parametrize("file", ["model", "report"])
def test_a_damaged_copy_in_the_registry_is_stored_again(workspace, file):
    known = version_of(workspace.tracking_uri, "leaves", 2)
    assert is_intact(workspace.tracking_uri, known)
    copy = copy_of(workspace, 2)
    flip(copy / "saved_model.pb" if file == "model" else copy.parent / "report.html")
    assert not is_intact(workspace.tracking_uri, known)
    registry, model = Registry(workspace.tracking_uri), workspace.models / "leaves" / "2"
    if file == "model":
        sound = repair._model_in(model, workspace.root / "scratch" / "model")
        assert registry.register("leaves", known.run, sound, sha256=known.sha256).version == 2
    else:
        report = workspace.root / "scratch" / "report.html"
        report.write_text("<html>")
        registry.runs.log(known.run, files=(report,))
    assert is_intact(workspace.tracking_uri, known)


def test_a_lost_registry_is_made_again_with_the_numbers_of_the_folders(workspace):
    shutil.rmtree(workspace.models / "leaves" / "1")
    sha256 = version_of(workspace.tracking_uri, "leaves", 2).sha256
    (workspace.root / "mlflow.db").unlink()
    shutil.rmtree(workspace.root / "mlartifacts")
    (row,) = listing.versions(workspace)["models"][0]["versions"]
    assert (row["version"], row["status"], row["champion"]) == (2, "unknown", True)
    assert not (workspace.root / "mlflow.db").exists()  # looking makes nothing
    assert repaired(workspace) == []
    (row,) = listing.versions(workspace)["models"][0]["versions"]
    assert (row["version"], row["status"], row["champion"], row["sha256"]) == (2, "published", True, sha256)
    registry = Registry(workspace.tracking_uri)
    sound = repair._model_in(workspace.models / "leaves" / "2", workspace.root / "scratch" / "model")
    again = registry.register("leaves", registry.runs.open("run-2"), sound, sha256=sha256)
    assert again.version == 2, "the same model keeps its number"
    other = saved_model(workspace.root / "other", "v3")
    assert (
        registry.register(
            "leaves", registry.runs.open("run-3"), other, sha256=digest.of_folder(other)
        ).version
        == 3
    )


def test_a_damaged_database_is_refused_in_a_sentence_that_helps(workspace):
    database = workspace.root / "mlflow.db"
    content = bytearray(database.read_bytes())
    content[4096:12288] = bytes(8192)  # two pages
    database.write_bytes(content)
    with pytest.raises(StepError, match=r"mlflow\.db is damaged: .*or move it away: the next `pergola run`"):
        listing.versions(workspace)
    database.rename(workspace.root.parent / "away.db")
    repaired(workspace)
    assert champion(workspace) == 2


def test_a_copied_workspace_uses_its_own_files(workspace, sound):
    before = {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()}
    registry = Registry(workspace.tracking_uri)
    model = saved_model(workspace.root / "other", "v3")
    made = registry.register("leaves", registry.runs.open("run-3"), model, sha256=digest.of_folder(model))
    assert copy_of(workspace, 3).is_dir() and made.version == 3
    shutil.rmtree(workspace.models / "leaves" / "2")
    shutil.rmtree(copy_of(workspace, 2))  # the one of the first workspace is not asked
    assert "Version 1 is the champion." in repaired(workspace)[0]
    assert {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()} == before


def test_a_registry_is_backed_up_while_it_is_written(workspace, tmp_path):
    """As docs/operations.md says."""
    registry = Registry(workspace.tracking_uri)
    run = registry.runs.open("run-9")
    with (
        sqlite3.connect(workspace.root / "mlflow.db") as source,
        sqlite3.connect(tmp_path / "copy.db") as copy,
    ):
        registry.runs.log_epochs(run, [{"loss": 1.0}])
        source.backup(copy)
        registry.runs.log_epochs(run, [{"loss": 0.5}], first=2)
    source.close()
    copy.close()
    shutil.copyfile(tmp_path / "copy.db", workspace.root / "mlflow.db")
    assert champion(workspace) == 2
    assert Registry(workspace.tracking_uri).runs.open("run-9") == run
