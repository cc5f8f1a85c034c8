"""One byte flipped in each kind of file of a workspace: it is found, and made again or refused in a sentence.

A damaged file never ends in "reused … ACCEPTED", and never in a failure that stays: the next run heals it, or
says what to do, which heals it.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import pergola
from pergola.components.errors import PergolaError
from pergola.components.release.registry.lookup import champion_of
from pergola.components.store import models_config
from pergola.components.store.models_config import ConfigEntry
from pergola.components.store.publish import damage_of
from pergola.components.workspace import Workspace
from pergola.pipelines.commands import cli
from pergola.pipelines.release import versions as listing
from tests.support import images, released
from tests.support.damage import flip

SETTINGS = {
    "train": {"epochs": 10},
    "model.architecture": "cnn_pool",
    "split.test": 0.4,
    "split.validation": 0.2,
    "validate.label_errors": False,
    "gate": {"min_accuracy": 0, "min_recall": 0, "max_gap": 1, "max_loss": 1, "max_drop": 1},
}


@dataclass(frozen=True)
class Kind:
    """Files of one kind. redone: steps that a run must do again; None: none, or it is healed before them."""

    pattern: str
    redone: frozenset[str] | None = None
    move: bool = False  # the message says to move the file away


STEPS = {  # the main file of each step's output: the cache treats all files of a step alike
    "scan": "manifest.json", "validate": "validation.json", "split": "split.json",
    "shards": "test-*.tfrecord", "augment": "augmentation.json", "train": "model.keras",
    "champion": "champion.json", "evaluate": "evaluation.json",
    "smoke_test": "smoke_test.json", "gate": "decision.json", "report": "report.html",
    "reference": "drift_reference.json", "register": "registration.json", "publish": "publication.json",
    "final_test": "final_test.json", "confirm": "confirmation.json",
}  # fmt: skip
KINDS = [
    *(Kind(f"steps/{name}/*/{file}", frozenset({name})) for name, file in STEPS.items()),
    Kind("models/*/1/saved_model.pb"),
    Kind("models/*/1/checksums.sha256"),
    Kind("models/*/1/assets.extra/pergola/*"),
    Kind("mlartifacts/*/artifacts/model-*/saved_model.pb", frozenset({"register"})),
    Kind("mlartifacts/*/artifacts/report.html", frozenset({"register"})),
    Kind("versions/*/1/reference/*", frozenset({"register"})),
    Kind("versions/*/1/checksums.json", frozenset({"register"})),
    Kind("mlflow.db", move=True),
    Kind("models.config"),
    Kind("runs/*/run.json"),
    Kind("runs/*/settings.toml"),
    Kind("state/*/split-*/split.json"),
    Kind("state/*/split-*/split.parquet"),
    Kind("scratch/stamps.parquet"),
    Kind("requests/*/*"),
    Kind("pergola.json"),
]
ALIKE = (  # what is treated as a file above is, has a test of its own below, or decides nothing
    "steps/*/*/*", "steps/*/*.json", "models/*/1/*", "mlartifacts/*/artifacts/*", "versions/*/1/*",
    "runs/*/*", "models/*/release.json", "models/*/.lock", "models/*/.change.lock", ".mlflow.db.lock", "lock",
)  # fmt: skip
REPAIRED = ("models/*/1/saved_model.pb", "models/*/1/checksums.sha256", "models/*/1/assets.extra/pergola/*")
ALWAYS_REDONE = {"champion"}
QUIETLY = KINDS[::2]  # the others with a new time of change


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("damage") / "shades", np.random.default_rng(0)
    for name, level in (("dark", 60), ("bright", 190)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.normal(level + rng.normal(0, 12), 18, (8, 8, 3))
            image = images.png(np.clip(pixels, 0, 255).astype(np.uint8))
            (folder / name / f"{number:02}.png").write_bytes(image)
    return folder


@pytest.fixture(scope="session")
def sound(dataset, tmp_path_factory) -> Path:
    """A workspace with one version that is served and a log of requests."""
    root = tmp_path_factory.mktemp("damage") / "work"
    result = run(dataset, root)
    assert (result.decision, result.version) == ("accepted", 1), result.reasons
    released.write_log(Workspace(root), [released.image_of(number) for number in range(4)])
    return root


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    """A copy that has its own registry: addresses in it are rewritten when it is used."""
    return shutil.copytree(sound, tmp_path / "work")


def run(dataset: Path, root: Path) -> pergola.RunResult:
    return pergola.run(dataset, workspace=root, settings=SETTINGS, quiet=True)


def kind_of(name: str) -> Kind | None:
    return next((kind for kind in KINDS if fnmatch.fnmatch(name, kind.pattern)), None)


def first_of(root: Path, kind: Kind) -> Path:
    """The first file of a kind that is of no kind before it; of marks, no deeper file."""
    for path in sorted(root.glob(kind.pattern)):
        if path.is_file() and kind_of(path.relative_to(root).as_posix()) in (kind, None):
            return path
    raise AssertionError(f"this workspace has no {kind.pattern}")


def all_is_well(dataset: Path, root: Path) -> None:
    """What was asked for, and nothing is damaged."""
    result = run(dataset, root)
    assert (result.decision, result.version) == ("accepted", 1)
    workspace = Workspace(root)
    (entry,) = listing.versions(workspace)["models"]
    assert entry["champion"] == 1
    assert [(row["version"], row["damage"], row["status"]) for row in entry["versions"]] == [
        (1, "", "published")
    ]
    served = models_config.to_text({"shades": ConfigEntry((1,))}, workspace.models)
    assert workspace.models_config.read_text() == served
    champion = champion_of(workspace.tracking_uri, "shades")
    assert champion and not damage_of(workspace.models / "shades" / "1", champion.sha256)
    with pergola.load("shades", workspace=root) as classifier:
        assert classifier.predict(dataset / "dark" / "00.png").labels == ("dark",)


def check(kind: Kind, copy: Path, dataset: Path, *, quietly: bool) -> None:
    damaged = first_of(copy, kind)
    name = damaged.relative_to(copy)
    flip(damaged, quietly=quietly)
    try:
        result = run(dataset, copy)
    except PergolaError as error:
        text = str(error)
        assert "\n" not in text and str(copy) in text and text.endswith("."), text
        if kind.move:
            assert "move it away" in text
            damaged.rename(copy.parent / "away")
        elif name.name == "pergola.json":
            damaged.write_text(json.dumps({"layout": 2}))
        else:
            assert "Delete it" in text, text
            damaged.unlink()
    else:
        assert (result.decision, result.version) == ("accepted", 1)
        if kind.redone is not None:
            assert kind.redone <= set(result.seconds) - set(result.reused) | ALWAYS_REDONE, name
    all_is_well(dataset, copy)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.pattern)
def test_a_flipped_byte_is_found_and_healed(kind, copy, dataset):
    check(kind, copy, dataset, quietly=kind in QUIETLY)


@pytest.mark.slow
def test_a_damaged_export_is_never_released(copy, dataset):
    """An export that is made again has other function names, so it is another version of the same weights."""
    flip(first_of(copy, Kind("steps/export/*/saved_model/saved_model.pb")), quietly=True)
    result = run(dataset, copy)
    assert result.decision == "accepted" and "export" not in result.reused
    (entry,) = listing.versions(Workspace(copy))["models"]
    assert entry["champion"] == result.version and {row["damage"] for row in entry["versions"]} == {""}
    with pergola.load("shades", workspace=copy) as classifier:
        assert classifier.predict(dataset / "dark" / "00.png").labels == ("dark",)


@pytest.mark.slow
def test_damaged_marks_of_steps_leave_the_content_to_decide(copy, dataset):
    marks = sorted(copy.glob("steps/*/*.json"))
    assert {mark.parent.name for mark in marks} >= set(STEPS)
    for mark in marks:
        flip(mark)
    all_is_well(dataset, copy)


@pytest.mark.slow
def test_a_damaged_release_record_names_the_command_that_heals_it(copy, dataset):
    record = copy / "models" / "shades" / "release.json"
    record.write_text(record.read_text().replace('"stable": 1', '"stable": 3', 1))
    with pytest.raises(PergolaError, match=r"release\.json is damaged.* pergola release stable N\.$"):
        run(dataset, copy)
    said = CliRunner().invoke(cli.pergola, ["release", "stable", "1", "--workspace", str(copy)])
    assert said.exit_code == 0, said.output
    all_is_well(dataset, copy)


@pytest.mark.slow
def test_every_file_of_a_workspace_is_of_a_kind(sound):
    names = [path.relative_to(sound).as_posix() for path in sound.rglob("*") if path.is_file()]
    others = [name for name in names if not kind_of(name)]
    assert [name for name in others if not any(fnmatch.fnmatch(name, one) for one in ALIKE)] == []


@pytest.mark.slow
def test_a_lost_registry_is_made_again_and_the_number_stays(sound, copy, dataset):
    (copy / "mlflow.db").unlink()
    shutil.rmtree(copy / "mlartifacts")
    (entry,) = listing.versions(Workspace(copy))["models"]
    assert "not in the registry" in listing.table({"models": [entry]})
    result = run(dataset, copy)
    assert result.version == 1 and {"register"} <= set(result.seconds) - set(result.reused)
    all_is_well(dataset, copy)


@pytest.mark.slow
def test_a_lost_folder_is_published_again(sound, copy, dataset):
    shutil.rmtree(copy / "models" / "shades" / "1")
    assert "folder is missing" in listing.table(listing.versions(Workspace(copy)))
    said: list[str] = []
    listing.repair(Workspace(copy), None, said.append)
    assert len(said) == 1 and "published again from the registry's copy" in said[0]
    all_is_well(dataset, copy)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", REPAIRED)
def test_load_refuses_a_damaged_version_and_repair_brings_it_back(pattern, sound, copy, dataset):
    damaged = first_of(copy, next(kind for kind in KINDS if kind.pattern == pattern))
    flip(damaged)
    with pytest.raises(pergola.StepError, match=r"damaged: .*checksums\.sha256.* `pergola versions --repair"):
        pergola.load("shades", workspace=copy)
    assert "damaged: " in listing.table(listing.versions(Workspace(copy)))
    said: list[str] = []
    listing.repair(Workspace(copy), None, said.append)
    assert len(said) == 1 and str(copy / "quarantine" / "shades" / "1") in said[0]
    assert (copy / "quarantine" / "shades" / "1" / "saved_model.pb").is_file()
    pergola.load("shades", workspace=copy).close()
    all_is_well(dataset, copy)


@pytest.mark.slow
def test_without_a_sound_copy_the_version_is_withdrawn_until_the_next_run(sound, copy, dataset):
    flip(copy / "models" / "shades" / "1" / "saved_model.pb")
    flip(next((copy / "mlartifacts").glob("*/artifacts/model-*/saved_model.pb")))
    said: list[str] = []
    listing.repair(Workspace(copy), None, said.append)
    assert "the registry's copy" in said[0].lower() and "Run `pergola run` with its images again." in said[0]
    assert not (copy / "models" / "shades" / "1").exists()
    all_is_well(dataset, copy)


@pytest.mark.slow
def test_a_workspace_works_where_it_was_copied_to_and_leaves_the_first_alone(sound, copy, dataset):
    before = {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()}
    (copy / "mlartifacts").rename(copy / "elsewhere")  # so that what is used is not that of the first
    (copy / "elsewhere").rename(copy / "mlartifacts")
    shutil.rmtree(copy / "models" / "shades" / "1")
    all_is_well(dataset, copy)
    assert {path: path.read_bytes() for path in sound.rglob("*") if path.is_file()} == before
    with sqlite3.connect(copy / "mlflow.db") as database:
        addresses = [row[0] for row in database.execute("SELECT artifact_uri FROM runs")]
    assert addresses and all(address.startswith(str(copy)) for address in addresses)
