"""What a step asks of a TrainJob, and what its workers make of it."""

import json
import logging
from pathlib import Path

import pytest

from pergola.components.artifacts.data import SPLITS, Shards, SplitShards
from pergola.components.artifacts.training import Training
from pergola.components.errors import InputError, StepError
from pergola.pipelines.kubeflow import workers
from tests.pipelines.kubeflow.test_pod import FakeArtifact
from tests.support.cluster import TOKEN
from tests.support.trainer import COMPLETE, FAILED, Chapter, FakeTrainer

ENVIRONMENT = {"PERGOLA_TRAINJOB": "train-leaves-1f", "PERGOLA_WORKERS": "3", "JOB_COMPLETION_INDEX": "2"}
TRAINED = Training("conv", "small", ("a", "b"), 8, 8, 3, 10, 4, 3, ({"loss": 0.5},), "float32", 0)


def test_tf_config_names_every_worker_by_its_host():
    found = json.loads(workers.tf_config(ENVIRONMENT))
    hosts = [f"train-leaves-1f-node-0-{number}.train-leaves-1f:2222" for number in range(3)]
    assert found == {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"JOB_COMPLETION_INDEX": None},
            "not a pod of a TrainJob: the variable JOB_COMPLETION_INDEX is not set",
        ),
        ({"JOB_COMPLETION_INDEX": "3"}, "with 3 workers it must be 0 to 2"),
        ({"PERGOLA_WORKERS": "many"}, "must be whole numbers"),
    ],
)
def test_tf_config_refuses(change, message):
    environment = {key: value for key, value in {**ENVIRONMENT, **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        workers.tf_config(environment)


@pytest.fixture
def inputs(tmp_path):
    """Shards and augmentation as far as their keys go; no image is read here."""
    part = SplitShards((), 0, {})
    parts = dict.fromkeys(SPLITS, part)
    Shards(("a", "b"), parts, 3, 8, 8, 8, 8, "f").save(tmp_path / "shards")
    (tmp_path / "augmentation").mkdir()
    (tmp_path / "augmentation" / "augmentation.json").write_text("{}")
    return tmp_path


@pytest.fixture
def train(inputs, monkeypatch):
    """The step, against a cluster on which a story happens; gives the TrainJobs that were made."""
    monkeypatch.setenv("PERGOLA_NAMESPACE", "kubeflow")
    monkeypatch.setenv("PERGOLA_POD", "run-7-train")
    monkeypatch.setenv("PERGOLA_POD_UID", "uid-7")

    def run(story, work=lambda folder: None):
        with FakeTrainer(story) as fake:
            fake.on_create = lambda job: work(Path(job["spec"]["trainer"]["command"][-1]))
            kubeconfig = inputs / "kubeconfig"
            kubeconfig.write_text(json.dumps(_kubeconfig(fake.url)))
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
            given = {
                "dataset": "d", "model": "My_leaves", "workspace": str(inputs / "work"),
                "train_settings": {"epochs": 4.0}, "model_settings": {},
                "workers": {"count": 2.0, "image": "pergola:1-gpu"}, "accelerator": "nvidia.com/gpu",
                "accelerator_count": "1", "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "tolerationSeconds": 60.0}],
            }  # fmt: skip
            for name in ("shards", "augmentation", "training"):
                given[name] = FakeArtifact(str(inputs / name))
            made = workers.train_workers(given)
            assert given["training"].metadata["epochs"] == made.epochs
            return made, fake.made

    return run


def _kubeconfig(url):
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }  # fmt: skip


def test_the_step_starts_workers_and_takes_what_they_leave(train, inputs, caplog):
    seen = {}

    def work(folder):
        """What worker 0 does, without the training."""
        seen["epochs"] = workers.TrainRequest.load(folder).settings["epochs"]
        seen["inputs"] = sorted(path.name for path in folder.iterdir())
        TRAINED.save(folder / "training")

    story = [Chapter(log=[("2026-11-21T10:00:01.1Z", "epoch=1 {}")]), Chapter([COMPLETE])]
    with caplog.at_level(logging.INFO):
        made, jobs = train(story, work)
    assert made == TRAINED == Training.load(inputs / "training")
    assert seen == {"epochs": 4, "inputs": ["augmentation", "request.json", "shards"]}
    (job,) = jobs
    assert job["metadata"]["name"].startswith("train-my-leaves-") and len(job["metadata"]["name"]) <= 50
    assert job["metadata"]["ownerReferences"][0]["uid"] == "uid-7"
    trainer = job["spec"]["trainer"]
    assert trainer["numNodes"] == 2 and trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "1"
    (patch,) = job["spec"]["runtimePatches"]
    assert '"tolerations": [{"key": "gpu", "tolerationSeconds": 60}]' in json.dumps(patch)
    environment = {entry["name"]: entry["value"] for entry in trainer["env"]}
    assert json.loads(workers.tf_config({**environment, "JOB_COMPLETION_INDEX": "0"}))["task"]["index"] == 0
    assert "epoch=1" in caplog.text
    assert list((inputs / "work" / "state" / "My_leaves").iterdir()) == []


def test_the_step_says_why_workers_failed_and_keeps_what_they_did(train, inputs):
    with pytest.raises(StepError, match=r"Training by 2 workers: .* failed: jobset failed"):
        train([Chapter([FAILED])])
    (folder,) = (inputs / "work" / "state" / "My_leaves").iterdir()
    assert (folder / "shards" / Shards.FILE).is_file()


def test_the_step_wants_a_cluster(train, monkeypatch):
    monkeypatch.delenv("PERGOLA_NAMESPACE")
    with pytest.raises(InputError, match="Several workers need a cluster"):
        train([])
