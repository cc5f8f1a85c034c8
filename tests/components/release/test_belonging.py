"""A data set that takes the name of a model of other data is refused before anything is trained."""

import dataclasses
import hashlib

import pandas as pd
import pytest

from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.training import Export
from pergola.components.errors import InputError
from pergola.components.release import belonging, provenance
from pergola.components.settings import Settings
from pergola.components.steps import data
from pergola.components.steps.context import Context
from pergola.components.workspace import Workspace


def manifest(folder, labels, numbers):
    folder.mkdir(parents=True)
    ids = [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers]
    rows = {"id": ids, "label": [labels[n % len(labels)] for n in range(len(ids))]}
    pd.DataFrame(rows).to_parquet(folder / "manifest.parquet")
    Manifest("folder", len(ids), 0, tuple(labels), "-".join((*labels, *ids))[:200]).save(folder)
    return folder


@pytest.fixture
def context(tmp_path):
    """Of a workspace with version 2 of "images", trained on 40 images of three leaves."""
    workspace = Workspace(tmp_path / "work")
    place = workspace.version("images", 2)
    made = manifest(tmp_path / "first", ("elm", "fig", "oak"), range(40))
    place.mkdir(parents=True)
    Manifest.load(made).save(place)
    Export(("elm", "fig", "oak"), 8, 8, 1, 100, "0" * 64).save(place)
    Manifest.table(made).to_parquet(place / provenance.IMAGES)
    return Context(tmp_path / "images", "images", Settings(), workspace)


def check(context, folder):
    data.check_belongs(context, {"manifest": folder})


def test_another_data_set_with_the_same_base_name_is_refused(context, tmp_path):
    other = manifest(tmp_path / "other", ("cat", "dog"), range(100, 140))
    with pytest.raises(InputError, match="shares 0 images and 0 of 3 classes with version 2") as error:
        check(context, other)
    assert "--set release.name=NAME" in str(error.value)
    allowed = Settings.of({"release": {"allow_contract_changes": True}})
    check(dataclasses.replace(context, settings=allowed), other)
    check(dataclasses.replace(context, model="pets"), other)
    check(dataclasses.replace(context, reproduces=tmp_path), other)


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (("elm", "fig", "oak"), range(40)),  # the same, wherever it lies
        (("elm", "fig", "oak"), range(20, 90)),
        (("a", "b", "c"), range(40)),  # the same images, relabelled
        (("elm", "fig", "ivy", "yew"), range(100, 140)),  # two of the three classes
    ],
)
def test_data_that_share_images_or_classes_are_the_same_data_set(context, tmp_path, labels, numbers, caplog):
    check(context, manifest(tmp_path / "now", labels, numbers))
    assert ("is another data set, name its model" in caplog.text) == (numbers[0] == 100)


def test_a_few_equal_files_do_not_make_it_the_same_data_set(context, tmp_path):
    found = belonging.shared(
        context.workspace, "images", manifest(tmp_path / "x", ("cat", "dog"), [0, *range(100, 300)])
    )
    assert found.images == 1 and not found.is_another_data_set  # 1 of 40 images is more than chance
    assert dataclasses.replace(found, of_images=200).is_another_data_set
