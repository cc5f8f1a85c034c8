"""Pipelines run by kfp.local, one process per task, and how their artifacts compare with a local run's.

kfp.local can skip a condition on a named output without a word, so every test checks which tasks ran.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import warnings
import zipfile
from pathlib import Path

from pergola.components import digest
from pergola.components import settings as config
from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Training
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import TRAINING, Pipeline
from pergola.pipelines.kubeflow import compiler
from pergola.pipelines.kubeflow.cluster import ClusterSettings

EQUAL = ("manifest", "validation", "split", "shards", "augmentation", "evaluation", "reference")
UP_TO_GATE = {"check", "scan", "validate", "split", "shards", "augment", "train", "export", "champion",
              "evaluate", "smoke_test", "evaluate_champion", "gate", "report", "reference",
              "register", "finish"}  # fmt: skip
RELEASED = {"publish", "final_test", "confirm", "deliver"}
GROUPS = {"check", "data", "train", "champion", "evaluate", "release", "finish"}
IF_ACCEPTED = {"final_test", "confirm"}


class Ran:
    """What the tasks of a run left."""

    def __init__(self, root: Path, seconds: float = 0.0) -> None:
        (self.folder,) = root.iterdir()
        self.tasks = {path.name.replace("-", "_") for path in self.folder.iterdir()}
        self.seconds = seconds

    def output(self, artifact: str) -> Path:
        """The one artifact of this name."""
        (found,) = self.folder.glob(f"*/{artifact}")
        return found

    def value(self, task: str, name: str = "Output") -> str:
        """What a task returned."""
        return str(self._record(task)["parameterValues"][name])

    def metadata(self, task: str) -> dict[str, dict[str, object]]:
        """Metadata of a task's artifacts, by name."""
        found = self._record(task)["artifacts"]
        return {name: entry["artifacts"][0]["metadata"] for name, entry in found.items()}

    def _record(self, task: str) -> dict[str, dict]:
        return json.loads((self.folder / task / "executor_output.json").read_text())


def run_locally(
    pipeline: str,
    dataset: Path,
    workspace: Path,
    root: Path,
    settings: tuple[str, ...] = (),
    *,
    model: str = "stripes",
    steps: Pipeline = TRAINING,
    **cluster: object,
) -> Ran:
    """Run "training" or "retraining" in processes of this machine."""
    from kfp import local as kfp_local

    build = {"training": compiler.build, "retraining": compiler.build_retraining}[pipeline]
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp's own
        pods = ClusterSettings(image="localhost/pergola-python:test", **cluster)
        function = build(config.load(None, settings), pods, steps)
        runner = kfp_local.SubprocessRunner(use_venv=False)
        kfp_local.init(runner=runner, pipeline_root=str(root), raise_on_error=True)
        function(dataset=str(dataset), model=model, workspace=str(workspace))
    return Ran(root, time.monotonic() - begin)


def made_by(workspace: Workspace, artifact: str, steps: Pipeline = TRAINING) -> Path:
    """The one output that a local run made of an artifact."""
    name = steps.makers[artifact].name
    (folder,) = (path for path in (workspace.steps / name).iterdir() if path.is_dir())
    return folder


def network(folder: Path) -> tuple[bytes, str]:
    """Weights and layers of model.keras, without the memory addresses that Keras writes into it."""
    with zipfile.ZipFile(folder / "model.keras") as file:
        layers = re.sub(r'"shared_object_id": \d+', "", file.read("config.json").decode())
        return file.read("model.weights.h5"), layers


def smoke_tested(folder: Path) -> SmokeTest:
    """Without times, and without the size: graphs hold names with counters of the process."""
    found = SmokeTest.load(folder)
    assert found.num_timed > 0 and found.latency_ms > 0 and found.num_bytes > 0
    return dataclasses.replace(found, latency_ms=None, latency_interval_ms=None, num_bytes=None)


def decided(folder: Path) -> list[Rule]:
    """All rules but the two on latency and size."""
    rules = Decision.load(folder).rules
    kept = [rule for rule in rules if rule.name not in ("latency", "size")]
    assert len(kept) == len(rules) - 2 >= 4
    return kept


def check_equal(ran: Ran, workspace: Workspace) -> None:
    """What a run on Kubeflow and a local run have in common, to the byte where that is possible."""
    for name in EQUAL:
        assert digest.of_folder(ran.output(name)) == digest.of_folder(made_by(workspace, name)), name
    for compare in (smoke_tested, decided, network, Training.load):
        name = {smoke_tested: "smoke_test", decided: "decision"}.get(compare, "training")
        assert compare(ran.output(name)) == compare(made_by(workspace, name)), name
