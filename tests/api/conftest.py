"""One small model for all tests of the public API, trained through it."""

from __future__ import annotations

from pathlib import Path

import pytest

import pergola
from tests.support import images

SETTINGS = {
    "train": {"epochs": 4},
    "model.architecture": "cnn_pool",
    "gate": {
        "max_calibration_error": 1,
        "min_accuracy": 0,
        "min_recall": 0,
        "max_gap": 1,
        "max_loss": 1,
        "max_drop": 1,
    },
}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    return images.write_folder(tmp_path_factory.mktemp("api") / "leaves", classes=3, per_class=40, size=16)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("api") / "work"


@pytest.fixture(scope="session")
def result(dataset, workspace) -> pergola.RunResult:
    return pergola.run(dataset, workspace=workspace, settings=SETTINGS, quiet=True)


@pytest.fixture(scope="session")
def classifier(result, workspace) -> pergola.Classifier:
    return pergola.load("leaves", workspace=workspace)
