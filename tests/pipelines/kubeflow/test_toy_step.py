"""A step that is added to the pipeline runs on both engines: it is a function and a row of the table."""

from pathlib import Path

import pytest

from pergola.components.artifacts.data import Manifest
from pergola.components.settings import Settings
from pergola.components.steps.context import Context
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import TRAINING, Pipeline, Step
from pergola.pipelines.local.engine import Engine
from tests.pipelines.kubeflow.local_runs import run_locally
from tests.support.images import write_folder

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.filterwarnings("ignore")  # the warnings are kfp's own


def count(context: Context, out: Path, manifest: Path) -> None:
    """Manifest -> a text with the number of images per class, and the seed of the split."""
    labels = Manifest.table(manifest, ["label"])["label"]
    lines = [f"{label} {number}" for label, number in sorted(labels.value_counts().items())]
    (out / "counts.txt").write_text("\n".join([*lines, f"seed {context.settings.split.seed}"]) + "\n")


TOY = Pipeline(
    "toy",
    (
        *TRAINING.steps[:1],
        Step(
            "count", count, "counts", group="data", code=("pergola.components.artifacts.data",),
            settings=("split.seed",), describe=lambda folder: (folder / "counts.txt").read_text(),
        ),
    ),
    place=f"{__name__}:TOY",
)  # fmt: skip


@pytest.mark.parametrize(("group", "task"), [("auto", "data"), ("none", "count")])
def test_a_step_of_somebody_else_runs_on_both_engines(tmp_path, monkeypatch, group, task):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where a pod finds the pipeline; in an image it is installed
    dataset = write_folder(tmp_path / "dataset", classes=2, per_class=3)
    workspace = Workspace(tmp_path / "here")
    workspace.create()
    engine = Engine(TOY, Context(dataset, "toy", Settings.of({"split": {"seed": 7}}), workspace))
    engine.run()
    here = engine.output("counts").folder / "counts.txt"
    assert here.read_text() == "class_0 3\nclass_1 3\nseed 7\n"

    ran = run_locally("training", dataset, tmp_path / "work", tmp_path / "root", ("split.seed=7",),
                      model="toy", steps=TOY, group=group)  # fmt: skip
    assert ran.tasks == {"check", "finish", task} | ({"scan"} if group == "none" else set())
    assert (ran.output("counts") / "counts.txt").read_bytes() == here.read_bytes()
    scanned = engine.output("manifest").folder / "manifest.parquet"
    assert (ran.output("manifest") / "manifest.parquet").read_bytes() == scanned.read_bytes()
    if group == "auto":
        assert "| count | " in ran.output("steps").read_text()
