"""A search for settings before training, where the cluster's settings ask for one."""

import pytest

from pergola.pipelines.kubeflow import compiled
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from tests.pipelines.kubeflow.test_compiled import documents, executor, tasks

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
