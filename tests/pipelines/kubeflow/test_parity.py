"""The pipelines, run by kfp.local with one process per task, make what `pergola run` makes."""

import shutil
from pathlib import Path

import pytest

from pergola.components import digest, records
from pergola.components import settings as config
from pergola.components.artifacts.data import Split
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.release import Champion, Confirmation, Delivery
from pergola.components.release import provenance
from pergola.components.release.registry.lookup import champion_of
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import TRAINING
from pergola.pipelines.local import run
from pergola.pipelines.local.progress import SilentDisplay
from tests.pipelines.kubeflow.local_runs import (
    GROUPS,
    IF_ACCEPTED,
    RELEASED,
    UP_TO_GATE,
    check_equal,
    made_by,
    run_locally,
)
from tests.support.images import write_folder

QUICK = ("train.epochs=12", "train.batch_size=16", "train.precision=float32", "smoke_test.rounds=1",
         "release.name=stripes", "gate.min_accuracy=0.05", "gate.min_recall=0", "gate.max_gap=1",
         "gate.max_drop=1")  # fmt: skip
TASKS = {"none": UP_TO_GATE | RELEASED | {"changes"}, "auto": GROUPS | IF_ACCEPTED | {"scan", "changes"}}
IN_TASK = {  # group -> step -> task
    "none": {step.name: step.name.replace("_", "-") for step in TRAINING.steps},
    "auto": {step.name: "scan" if step.name == "scan" else step.group for step in TRAINING.steps},
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the warnings are kfp's own


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "stripes", classes=2, per_class=60)


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Folders of the runs on Kubeflow, by group."""
    return {group: tmp_path_factory.mktemp(group) for group in TASKS}


@pytest.fixture(scope="module")
def runs(dataset, there):
    """A first retraining, by group."""
    return {
        group: run_locally("retraining", dataset, root / "work", root / "first", QUICK, group=group)
        for group, root in there.items()
    }


@pytest.fixture(scope="module", params=list(TASKS))
def group(request):
    return request.param


@pytest.fixture(scope="module")
def ran(runs, group):
    return runs[group]


@pytest.fixture(scope="module")
def here(dataset, tmp_path_factory):
    workspace = Workspace(tmp_path_factory.mktemp("here") / "work")
    result = run.run(dataset, config.load(None, QUICK), workspace, show=SilentDisplay())
    return workspace, result


def test_a_first_retraining_runs_every_step(ran, group):
    assert ran.tasks == TASKS[group]
    assert ran.value("changes") == "changed" and ran.value(IN_TASK[group]["gate"]) == "accepted"
    assert "in the workspace only" in Delivery.load(ran.output("delivery")).message


def test_the_pipeline_makes_what_a_local_run_makes(ran, group, here):
    workspace, result = here
    assert result.decision == ran.value(IN_TASK[group]["gate"])
    check_equal(ran, workspace)


def test_the_pipeline_exports_and_publishes_the_same_model(ran, group, here, there):
    workspace, result = here
    for folder in ("variables", "assets", "assets.extra"):  # graphs hold names with counters of the process
        exported = (ran.output("export"), made_by(workspace, "export"))
        found, wanted = (digest.of_folder(root / "saved_model" / folder) for root in exported)
        assert found == wanted, folder
    published = there[group] / "work" / "models" / "stripes" / "1" / "saved_model.pb"
    assert published.read_bytes() == (ran.output("export") / "saved_model" / "saved_model.pb").read_bytes()
    confirmation = Confirmation.load(ran.output("confirmation"))
    assert (confirmation.model, confirmation.version, confirmation.previous) == ("stripes", 1, None)
    assert result.version == 1 and Path(result.model_path).name == "1"


def test_kubeflow_shows_scores_findings_and_the_report(ran, group):
    shown = ran.metadata(IN_TASK[group]["evaluate"])
    scores = Evaluation.load(ran.output("evaluation"))
    assert shown["metrics"]["accuracy"] == scores.accuracy
    rows = shown["confusion"]["confusionMatrix"]["rows"]
    assert [tuple(row["row"]) for row in rows] == list(scores.confusion)
    assert shown["roc"]["confidenceMetrics"][0]["recall"] == 0
    assert "Accepted" in ran.output("verdict").read_text()
    assert ran.output("data_page").read_text().lstrip().startswith("<")
    assert "stripes" in ran.output("report_page").read_text()
    settings = ran.value("check", "settings")
    assert "epochs = 12\n" in settings and "min_accuracy = 0.05" in settings


def test_a_group_reports_each_of_its_steps(runs):
    ran = runs["auto"]
    for task in ("data", "train", "evaluate", "release"):
        table = (ran.folder / task / "steps").read_text().splitlines()[2:]
        rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
        steps = [step for step in TRAINING.steps if step.group == task and step.name != "scan"]
        assert [row[0] for row in rows] == [step.name for step in steps]
        assert all(float(row[1]) >= 0 for row in rows)
        described = [(row[2], step.describe(ran.output(step.output)).split("\n")[0])
                     for row, step in zip(rows, steps, strict=True)]  # fmt: skip
        assert all(shown == wanted for shown, wanted in described), described


def test_a_retraining_ends_early_when_nothing_changed(runs, dataset, there):
    root = there["auto"]
    again = run_locally("retraining", dataset, root / "work", root / "second", QUICK, group="auto")
    assert again.tasks == {"check", "scan", "changes", "finish"}
    assert again.value("changes") == "unchanged"
    assert "accepted as version 1" in again.output("why").read_text()


def test_new_images_make_a_second_version(runs, dataset, there, tmp_path):
    """The champion moves, and no image of version 1 changes its split."""
    first, work = runs["auto"], there["auto"] / "work"
    grown = shutil.copytree(dataset, tmp_path / "stripes")
    more = write_folder(tmp_path / "more", classes=2, per_class=20, seed=1)
    for image in more.rglob("*.*"):
        shutil.copyfile(image, grown / image.parent.name / f"new-{image.name}")
    overrides = (*QUICK, "gate.promote=undecided")  # else a worse estimate holds it
    ran = run_locally("retraining", grown, work, tmp_path / "root", overrides, group="auto")
    assert ran.tasks == TASKS["auto"] and ran.value("changes") == "changed"
    assert Champion.load(ran.output("champion")).version == 1
    assert Decision.load(ran.output("decision")).champion == 1
    confirmation = Confirmation.load(ran.output("confirmation"))
    assert (confirmation.version, confirmation.previous) == (2, 1)
    workspace = Workspace(work)
    assert champion_of(workspace.tracking_uri, "stripes").version == 2
    assert (workspace.models / "stripes" / "2" / "saved_model.pb").is_file()
    before, after = (dict(Split.table(r.output("split"), ["id", "split"]).values) for r in (first, ran))
    assert len(after) > len(before) == 120
    assert {id: after[id] for id in before} == before
    for version, split in ((1, before), (2, after)):
        assert provenance.ids(workspace.version("stripes", version)) == set(split)


def test_a_rejected_model_is_a_green_run_that_releases_nothing(dataset, tmp_path):
    overrides = (*QUICK, "gate.min_accuracy=1.0", "train.epochs=1")
    rejected = run_locally("training", dataset, tmp_path / "work", tmp_path / "root", overrides, group="none")
    assert rejected.tasks == UP_TO_GATE
    assert rejected.value("gate") == "rejected"
    decision = records.load_json(Decision, rejected.output("decision") / "decision.json")
    assert not decision.accepted and any("100.0%" in reason for reason in decision.reasons)
    assert not (tmp_path / "work" / "models").exists()
