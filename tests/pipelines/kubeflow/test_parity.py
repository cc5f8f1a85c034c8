"""The pipelines, run by kfp.local in a process a step, give what `pergola run` gives.

A condition on a named output can be skipped in silence by kfp.local, so every test says which tasks ran.
"""

import dataclasses
import json
import re
import warnings
import zipfile
from pathlib import Path

import pytest

from pergola.components import digest, records
from pergola.components import settings as config
from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Confirmation
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Training
from pergola.components.workspace import Workspace
from pergola.pipelines.kubeflow import compiled
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import SilentDisplay
from tests.support.images import write_folder

QUICK = ("train.epochs=12", "train.batch_size=16", "train.precision=float32", "smoke_test.rounds=1",
         "release.name=stripes", "gate.min_accuracy=0.05", "gate.min_recall=0", "gate.max_gap=1",
         "gate.max_drop=1")  # fmt: skip
UP_TO_GATE = {"settings", "listing", "scan", "validate", "split", "shards", "augment", "train", "export",
              "evaluate", "smoke_test", "champion", "gate", "report", "register", "finish"}  # fmt: skip
SHIPPED = {"reference", "publish", "confirm", "deliver"}
EQUAL = {  # task and output -> step of the local front
    ("scan", "manifest"): "scan",
    ("validate", "validation"): "validate",
    ("split", "split"): "split",
    ("shards", "shards"): "shards",
    ("augment", "augmentation"): "augment",
    ("evaluate", "evaluation"): "evaluate",
    ("reference", "reference"): "reference",
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the warnings are kfp's own


class Ran:
    """A pipeline that was run in processes of this machine, and what its tasks left."""

    def __init__(self, root: Path) -> None:
        (self.folder,) = root.iterdir()
        self.tasks = {path.name for path in self.folder.iterdir()}

    def output(self, task: str, name: str) -> Path:
        return self.folder / task / name

    def value(self, task: str) -> str:
        """What a task returned."""
        record = json.loads((self.folder / task / "executor_output.json").read_text())
        return record["parameterValues"]["Output"]


def kubeflow(pipeline: str, dataset: Path, workspace: Path, root: Path, *overrides: str) -> Ran:
    from kfp import local as kfp_local

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = ClusterSettings(image="localhost/pergola-python:test")
        function = compiled.build(pipeline, config.load(None, (*QUICK, *overrides)), cluster)
        runner = kfp_local.SubprocessRunner(use_venv=False)
        kfp_local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
        function(dataset=str(dataset), model="stripes", workspace=str(workspace))
    return Ran(root)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "stripes", classes=2, per_class=60)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return tmp_path_factory.mktemp("there")


@pytest.fixture(scope="module")
def ran(dataset, there):
    return kubeflow("retraining", dataset, there / "work", there / "first")


@pytest.fixture(scope="module")
def here(dataset, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("here") / "work")
    result = run.run(dataset, config.load(None, QUICK), workspace, show=SilentDisplay())
    return workspace, result


def step(workspace: Workspace, name: str) -> Path:
    """The one output of a step of the local front."""
    (folder,) = (path for path in (workspace.steps / name).iterdir() if path.is_dir())
    return folder


def network(folder: Path) -> tuple[bytes, str]:
    """Weights and layers of model.keras, without the memory addresses that Keras writes into it."""
    with zipfile.ZipFile(folder / "model.keras") as file:
        layers = re.sub(r'"shared_object_id": \d+', "", file.read("config.json").decode())
        return file.read("model.weights.h5"), layers


def smoke_tested(folder: Path) -> SmokeTest:
    """Without what the clock says, and the size: graphs hold names with counters of the process."""
    found = SmokeTest.load(folder)
    assert found.num_timed > 0 and found.latency_ms > 0 and found.num_bytes > 0
    return dataclasses.replace(found, latency_ms=None, latency_interval_ms=None, num_bytes=None)


def decided(folder: Path) -> list[Rule]:
    """All rules but those on the clock and on the size, of which there are two."""
    rules = Decision.load(folder).rules
    kept = [rule for rule in rules if rule.name not in ("latency", "size")]
    assert len(kept) == len(rules) - 2 >= 4
    return kept


def test_a_first_retraining_runs_every_step(ran):
    assert ran.tasks == UP_TO_GATE | SHIPPED | {"changes"}
    assert (ran.value("changes"), ran.value("gate")) == ("changed", "accepted")
    assert "in the workspace only" in ran.value("deliver")


def test_the_pipeline_makes_what_the_local_front_makes(ran, here):
    workspace, result = here
    assert result.decision == ran.value("gate")
    for (task, name), ours in EQUAL.items():
        assert digest.of_folder(ran.output(task, name)) == digest.of_folder(step(workspace, ours)), ours
    assert smoke_tested(ran.output("smoke_test", "smoke_test")) == smoke_tested(step(workspace, "smoke_test"))
    assert decided(ran.output("gate", "decision")) == decided(step(workspace, "gate"))
    assert network(ran.output("train", "training")) == network(step(workspace, "train"))
    record = Training.load(step(workspace, "train"))
    assert Training.load(ran.output("train", "training")) == record


def test_the_pipeline_exports_and_publishes_the_same_model(ran, here, there):
    workspace, result = here
    for folder in ("variables", "assets", "assets.extra"):  # graphs hold names with counters of the process
        exported = (ran.output("export", "export"), step(workspace, "export"))
        found, wanted = (digest.of_folder(root / "saved_model" / folder) for root in exported)
        assert found == wanted, folder
    one = there / "work" / "models" / "stripes" / "1"
    assert (one / "saved_model.pb").read_bytes() == (
        ran.output("export", "export") / "saved_model" / "saved_model.pb"
    ).read_bytes()
    confirmation = Confirmation.load(ran.output("confirm", "confirmation"))
    assert (confirmation.model, confirmation.version, confirmation.previous) == ("stripes", 1, None)
    assert result.version == 1 and Path(result.model_path).name == "1"


def test_kubeflow_is_shown_figures_findings_and_the_report(ran):
    outputs = json.loads((ran.folder / "evaluate" / "executor_output.json").read_text())["artifacts"]
    shown = {name: entry["artifacts"][0]["metadata"] for name, entry in outputs.items()}
    scores = Evaluation.load(ran.output("evaluate", "evaluation"))
    assert shown["metrics"]["accuracy"] == scores.accuracy
    rows = shown["confusion"]["confusionMatrix"]["rows"]
    assert [tuple(row["row"]) for row in rows] == list(scores.confusion)
    assert shown["roc"]["confidenceMetrics"][0]["recall"] == 0
    assert "Accepted" in ran.output("gate", "verdict").read_text()
    assert ran.output("validate", "page").read_text().lstrip().startswith("<")
    assert "stripes" in ran.output("report", "report").read_text()
    settings = ran.value("settings")
    assert "epochs = 12\n" in settings and "min_accuracy = 0.05" in settings


def test_a_retraining_ends_early_when_nothing_changed(ran, dataset, there):
    again = kubeflow("retraining", dataset, there / "work", there / "second")
    assert again.tasks == {"settings", "listing", "scan", "changes", "finish"}
    assert again.value("changes") == "unchanged"
    assert "accepted as version 1" in again.output("changes", "why").read_text()


def test_a_rejected_model_is_a_green_run_that_ships_nothing(dataset, tmp_path):
    overrides = ("gate.min_accuracy=1.0", "train.epochs=1")
    rejected = kubeflow("training", dataset, tmp_path / "work", tmp_path / "root", *overrides)
    assert rejected.tasks == UP_TO_GATE
    assert rejected.value("gate") == "rejected"
    decision = records.load_json(Decision, rejected.output("gate", "decision") / "decision.json")
    assert not decision.accepted and any("100.0%" in reason for reason in decision.reasons)
    assert not (tmp_path / "work" / "models").exists()
