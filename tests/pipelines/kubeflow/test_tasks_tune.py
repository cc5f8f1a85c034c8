"""The task tune as a pod runs it."""

from pathlib import Path

import pytest

from pergola.components.settings import from_toml
from pergola.pipelines.definition import TRAINING
from pergola.pipelines.kubeflow import pod, tasks
from tests.components.training.test_tune import KERAS_TUNERS_OWN
from tests.pipelines.kubeflow.test_pod import FakeArtifact
from tests.support.images import write_folder

SETTINGS = """
[scan]
workers = 1
[augment]
rotation_degrees = 0.0
[model]
image_size = 8
[train]
epochs = 1
"""


@pytest.mark.slow
@pytest.mark.filterwarnings(KERAS_TUNERS_OWN)
def test_a_search_gives_the_sections_of_its_best_trial(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    dataset = write_folder(tmp_path / "dataset", classes=2, per_class=12)
    names = ("manifest", "validation", "split", "shards", "data_page", "findings", "trials")
    given = {name: FakeArtifact(str(tmp_path / name)) for name in names}
    given |= {"dataset": str(dataset), "model": "leaves", "workspace": str(tmp_path / "work"),
              "settings": SETTINGS, "search": {"trials": 2.0, "method": "random"}}  # fmt: skip
    pod.run(TRAINING.place, ["scan", "validate", "split", "shards"], given)
    augment, model, train, settings = tasks.tune(given)
    found = from_toml(settings)
    assert train["epochs"] == found.train.epochs >= 1 and model["image_size"] == found.model.image_size == 8
    assert augment["rotation_degrees"] == found.augment.rotation_degrees
    assert found.scan.workers == 1
    page = Path(given["trials"].path).read_text()
    assert page.count("(best) |") == 1 and page.count("\n") == 4
    assert tasks.tune(given) == (augment, model, train, settings)
    assert Path(given["trials"].path).read_text() == page
