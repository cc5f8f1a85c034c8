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

import pergola
from pergola.components.errors import PergolaError
from pergola.components.release.registry import champion_of
from pergola.components.store.publish import damage_of
from pergola.components.workspace import Workspace
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
    """Files of one kind. redone: steps that a run must do again; None: the file decides no result."""

    pattern: str
    redone: frozenset[str] | None = None
    move: bool = False  # the message says to move the file away


def step(name: str, *files: str) -> list[Kind]:
    """The files of a step's output, and the mark beside it: where that is damaged, the content decides."""
    here = frozenset({name})
    return [Kind(f"steps/{name}/*/{file}", here) for file in files] + [Kind(f"steps/{name}/*.json")]


RELEASE = frozenset({"publish", "confirm"})
KINDS = [
    *step("scan", "manifest.json", "manifest.parquet"),
    *step("validate", "validation.json", "images.json", "index.html", "label_errors.json", "shortcuts.json"),
    *step("split", "split.json", "split.parquet"),
    *step("shards", "shards.json", "test-*.tfrecord", "train-*.tfrecord", "validation-*.tfrecord"),
    *step("augment", "augmentation.json", "preview.png"),
    *step("train", "training.json", "model.keras"),
    *step("export", "export.json", "saved_model/saved_model.pb", "saved_model/fingerprint.pb",
          "saved_model/variables/variables.data*", "saved_model/variables/variables.index",
          "saved_model/assets.extra/*"),
    *step("champion", "champion.json"),
    *step("evaluate", "evaluation.json", "golden.json", "predictions.parquet", "*.json", "*.parquet", "*.jpg",
          "*.png"),
    *step("smoke_test", "smoke_test.json"),
    *step("evaluate_champion"),
    *step("gate", "decision.json", "*.json"),
    *step("report", "report.html"),
    *step("reference", "*"),
    *step("register", "registration.json"),
    *step("publish", "publication.json"),
    *step("confirm", "confirmation.json"),
    Kind("models/*/1/saved_model.pb", RELEASE),
    Kind("models/*/1/variables/variables.data*", RELEASE),
    Kind("models/*/1/variables/variables.index", RELEASE),
    Kind("models/*/1/fingerprint.pb", RELEASE),
    Kind("models/*/1/checksums.sha256", RELEASE),
    Kind("models/*/1/assets.extra/pergola/*", RELEASE),
    Kind("models/*/1/assets.extra/*", RELEASE),
    Kind("mlartifacts/*/artifacts/model-*/*", frozenset({"register"})),
    Kind("mlartifacts/*/artifacts/*", frozenset({"register"})),
    Kind("versions/*/1/*", frozenset({"register"})),
    Kind("mlflow.db", move=True),
    Kind("runs/*/run.json"),
    Kind("runs/*/settings.toml"),
    Kind("runs/*/report.html"),
    Kind("runs/*/*"),
    Kind("state/*/split-*/split.json"),
    Kind("state/*/split-*/split.parquet"),
    Kind("scratch/stamps.parquet"),
    Kind("requests/*/*"),
    Kind("pergola.json"),
    Kind("lock"),
]  # fmt: skip
REPAIRED = ("models/*/1/saved_model.pb", "models/*/1/checksums.sha256", "models/*/1/assets.extra/pergola/*")
ALWAYS_REDONE = {"champion"}


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
        if path.is_file() and kind_of(path.relative_to(root).as_posix()) == kind:
            return path
    pytest.skip(f"this workspace has no {kind.pattern}")


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
    champion = champion_of(workspace.tracking_uri, "shades")
    assert champion and not damage_of(workspace.models / "shades" / "1", champion.sha256)
    with pergola.load("shades", workspace=root) as classifier:
        assert classifier.predict(dataset / "dark" / "00.png").labels == ("dark",)


def check(kind: Kind, sound: Path, copy: Path, dataset: Path, *, quietly: bool) -> None:
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
@pytest.mark.parametrize("quietly", [False, True], ids=["touched", "quietly"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.pattern)
def test_a_flipped_byte_is_found_and_healed(kind, quietly, sound, copy, dataset):
    check(kind, sound, copy, dataset, quietly=quietly)


@pytest.mark.slow
def test_every_file_of_a_workspace_is_of_a_kind(sound):
    names = [path.relative_to(sound).as_posix() for path in sound.rglob("*") if path.is_file()]
    assert [name for name in names if kind_of(name) is None and name != ".mlflow.db.lock"] == []


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
