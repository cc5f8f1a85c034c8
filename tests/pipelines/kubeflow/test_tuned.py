"""A search for settings before training, where the cluster's settings ask for one."""

import pytest

from components import artifacts, pods, visuals
from pipelines import compiled
from pipelines.cluster import ClusterSettings
from tests.components.training.test_tune import KERAS_TUNERS_OWN
from tests.pipelines.kubeflow.test_compiled import documents, executor, tasks
from tests.support.pictures import write_folder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    cluster = ClusterSettings(image="pergola:7", train_image="pergola:7-gpu", tune_trials=5)
    file = tmp_path_factory.mktemp("compiled") / "training.yaml"
    return documents(compiled.compile_to(file, cluster=cluster))[0]


def test_what_the_search_found_is_what_is_trained_and_told(spec):
    run = tasks(spec, "comp-exit-handler-1")

    def source(task, name):
        return run[task]["inputs"]["parameters"][name]["taskOutputParameter"]

    assert run["tune"]["inputs"]["parameters"]["search"]["runtimeValue"]["constant"]["trials"] == 5
    assert executor(spec, "tune")["image"].endswith("-gpu")
    for task, name, found in (
        ("augment", "settings", "augment"), ("augment", "train", "train"), ("train", "settings", "train"),
        ("train", "architecture", "network"), ("settings-2", "train", "train"),
    ):  # fmt: skip
        assert source(task, name) == {"producerTask": "tune", "outputParameterKey": found}
    assert source("report", "settings")["producerTask"] == "settings-2"
    assert source("register", "settings")["producerTask"] == "settings-2"
    assert source("register", "asked")["producerTask"] == "settings"


@pytest.mark.slow
@pytest.mark.filterwarnings(KERAS_TUNERS_OWN)
def test_a_search_gives_the_sections_of_its_best_trial(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photos, work = write_folder(tmp_path / "photos", classes=2, per_class=12), str(tmp_path / "work")
    pods.scan(str(photos), str(tmp_path / "m"), {"workers": 1}, work)
    artifacts.ValidationReport(True, (), {}, 1, {}).save(tmp_path / "v")
    pods.split(str(tmp_path / "m"), str(tmp_path / "v"), str(tmp_path / "s"), {}, "leaves", work)
    shards = str(tmp_path / "shards")
    pods.shards(str(photos), str(tmp_path / "m"), str(tmp_path / "s"), shards, {}, {}, work)
    given = ({"rotation_degrees": 0.0}, {"image_size": 8}, {"epochs": 1.0})
    found, tuning = pods.tune(shards, *given, {"trials": 2.0, "method": "random"}, "leaves", work)
    assert set(found) == {"augment", "model", "train"} and found["train"]["epochs"] >= 1
    assert tuning.best.id in {trial.id for trial in tuning.trials} and len(tuning.trials) == 2
    page = visuals.trials(tuning)
    assert f"| {tuning.best.id} (taken) |" in page and page.count("\n") == 4
    again, same = pods.tune(shards, *given, {"trials": 2.0, "method": "random"}, "leaves", work)
    assert (again, same) == (found, tuning)
