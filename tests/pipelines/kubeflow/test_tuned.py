"""A search for settings before training, where the cluster's settings ask for one."""

import pytest

from pergola.pipelines.kubeflow import compiled
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from tests.pipelines.kubeflow.test_compiled import documents, executor, tasks

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module", params=["auto", "none"])
def spec(request, tmp_path_factory):
    cluster = ClusterSettings(
        image="pergola:7", train_image="pergola:7-gpu", tune_trials=5, group=request.param
    )
    file = tmp_path_factory.mktemp("compiled") / "training.yaml"
    return documents(compiled.compile_to(file, cluster=cluster))[0]


def test_what_the_search_found_is_what_is_trained_and_reported(spec):
    run = tasks(spec)

    def source(task, name):
        return run[task]["inputs"]["parameters"][name]["taskOutputParameter"]

    assert run["tune"]["inputs"]["parameters"]["search"]["runtimeValue"]["constant"]["trials"] == 5
    assert executor(spec, "tune")["image"].endswith("-gpu")
    is_grouped = "release" in run
    augment, report, register = (
        ("train", "evaluate", "release") if is_grouped else ("augment", "report", "register")
    )
    for task, name, found in (
        (augment, "augment_settings", "augment"), (augment, "train_settings", "train"),
        ("train", "train_settings", "train"), ("train", "model_settings", "network"),
        (report, "settings", "settings"), (register, "settings", "settings"),
    ):  # fmt: skip
        assert source(task, name) == {"producerTask": "tune", "outputParameterKey": found}
    assert source("tune", "settings")["producerTask"] == "check"
    assert source(register, "asked_settings") == {"producerTask": "check", "outputParameterKey": "settings"}
