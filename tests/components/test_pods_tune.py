"""The step tune as a pod runs it."""

import pytest

from pergola.components.artifacts.data import ValidationReport
from pergola.pipelines.kubeflow import pod_data, pod_model, visuals
from tests.components.training.test_tune import KERAS_TUNERS_OWN
from tests.support.images import write_folder


@pytest.mark.slow
@pytest.mark.filterwarnings(KERAS_TUNERS_OWN)
def test_a_search_gives_the_sections_of_its_best_trial(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    dataset, work = write_folder(tmp_path / "dataset", classes=2, per_class=12), str(tmp_path / "work")
    pod_data.scan(str(dataset), str(tmp_path / "m"), {"workers": 1}, work)
    ValidationReport(True, (), {}, 1, {}).save(tmp_path / "v")
    pod_data.split(str(tmp_path / "m"), str(tmp_path / "v"), str(tmp_path / "s"), {}, "leaves", work)
    shards = str(tmp_path / "shards")
    pod_data.shards(str(dataset), str(tmp_path / "m"), str(tmp_path / "s"), shards, {}, {}, work)
    given = ({"rotation_degrees": 0.0}, {"image_size": 8}, {"epochs": 1.0})
    found, tuning = pod_model.tune(shards, *given, {"trials": 2.0, "method": "random"}, "leaves", work)
    assert set(found) == {"augment", "model", "train"} and found["train"]["epochs"] >= 1
    assert tuning.best.id in {trial.id for trial in tuning.trials} and len(tuning.trials) == 2
    page = visuals.trials(tuning)
    assert f"| {tuning.best.id} (taken) |" in page and page.count("\n") == 4
    again, same = pod_model.tune(shards, *given, {"trials": 2.0, "method": "random"}, "leaves", work)
    assert (again, same) == (found, tuning)
