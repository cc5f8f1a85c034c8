"""Steps and groups of steps as a pod runs them, called with stand-ins for Kubeflow's artifacts."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pergola.components import records
from pergola.components.artifacts.data import Finding, Shards, Split, ValidationReport
from pergola.components.artifacts.decision import ACCEPTED, HELD, OUTCOMES, Decision
from pergola.components.artifacts.release import Champion
from pergola.components.errors import InputError, StepError
from pergola.components.settings import Settings, to_toml
from pergola.pipelines.definition import TRAINING, Pipeline, Step
from pergola.pipelines.kubeflow import failures, pod
from tests.support import step_artifacts
from tests.support.images import write_folder

REASON = "Class b has 1 image."
PLACE = f"{__name__}:PIPELINE"


@dataclass
class FakeArtifact:
    """What a component gets for an artifact, as far as pods use it."""

    path: str
    metadata: dict = field(default_factory=dict)


def validate(context, out: Path, manifest: Path):
    """Finds what the test put into the manifest's folder."""
    report = ValidationReport.load(manifest)
    report.save(out)
    (out / "index.html").write_text("<html>the findings</html>")


def shards(context, out: Path, manifest: Path, split: Path):
    """Only ever called with a split."""
    Split.load(split)
    Shards(("a", "b"), {}, 3, 8, 8, 8, 8, "f").save(out)


def augment(context, out: Path, shards: Path):
    raise StepError("The disk is full.")


CODE = ("pergola.components.digest",)
VALIDATE, SPLIT = TRAINING.by_name["validate"], TRAINING.by_name["split"]
PIPELINE = Pipeline(
    "cut",
    (
        TRAINING.by_name["scan"],
        replace(VALIDATE, function=validate, observes=None),
        SPLIT,
        Step("shards", shards, "shards", code=CODE, group="data"),
        Step("augment", augment, "augmentation", code=CODE, group="train"),
    ),
    place=PLACE,
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs steps as one task of the run "run-1"; gives the task's arguments."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(failures.RUN_VARIABLE, "run-1")
    monkeypatch.setenv(failures.WORKSPACE_VARIABLE, str(tmp_path / "work"))

    def task(*steps, place=PLACE, pipeline=PIPELINE, **given):
        names = {step.output for step in pipeline.steps} | {"data_page", "findings", "steps"}
        artifacts = {name: FakeArtifact(str(tmp_path / name)) for name in names}
        plain = {"dataset": str(tmp_path / "leaves"), "model": "leaves", "workspace": str(tmp_path / "work")}
        given = {**plain, "settings": to_toml(Settings()), **artifacts, **given}
        return pod.run(place, steps, given), given

    return task


@pytest.fixture
def refused(tmp_path):
    """A manifest with a critical finding."""
    folder = step_artifacts.manifest(tmp_path / "manifest")
    ValidationReport(False, (Finding("too_few", "critical", 1, (), REASON),), {}, 1, {}).save(folder)
    return folder


@pytest.fixture
def sound(tmp_path):
    folder = step_artifacts.manifest(tmp_path / "manifest")
    step_artifacts.validation(folder)
    return folder


def failure(tmp_path):
    return failures.read("run-1", str(tmp_path / "work"))


def table(given):
    lines = Path(given["steps"].path).read_text().splitlines()
    assert lines[:2] == ["| step | seconds | result |", "|---|---|---|"]
    rows = [line[2:-2].split(" | ") for line in lines[2:]]
    assert all(float(seconds) >= 0 for _, seconds, _ in rows)
    return {step: result for step, _, result in rows}


def test_a_group_runs_its_steps_in_order_and_reports_each(run, sound, tmp_path):
    verdict, given = run("validate", "split", "shards")
    assert verdict == "" and (tmp_path / "shards" / "shards.json").is_file()
    assert list(table(given)) == ["validate", "split", "shards"]
    assert table(given)["validate"] == "no findings"
    assert re.fullmatch(r"\d+ train, \d+ validation, \d+ test", table(given)["split"])
    assert sum(given["split"].metadata.values()) == 40
    assert failure(tmp_path) == ""


def test_a_group_that_refuses_the_data_succeeds_with_its_page_and_the_next_task_fails(run, refused, tmp_path):
    _, given = run("validate", "split", "shards")
    assert "the findings" in (tmp_path / "data_page").read_text()
    assert REASON in (tmp_path / "findings").read_text()
    shown = table(given)
    assert shown["validate"] == "1 finding (1 critical)" and shown["shards"] == "not run"
    assert shown["split"].startswith(f"refused: The data cannot be used: {REASON}")
    assert not (tmp_path / "split" / Split.FILE).exists()
    with pytest.raises(InputError, match=rf"The data cannot be used: {REASON}"):
        run("augment")
    assert failure(tmp_path).startswith(f"split failed: The data cannot be used: {REASON} See ")


def test_a_refusal_from_kubeflows_cache_is_reported_by_the_next_task_of_another_run(
    run, refused, tmp_path, monkeypatch
):
    run("validate", "split", "shards")
    monkeypatch.setenv(failures.RUN_VARIABLE, "run-2")
    with pytest.raises(InputError, match=REASON):
        run("augment")
    assert failures.read("run-2", str(tmp_path / "work")).startswith("split failed: The data cannot be used")


def test_every_kind_of_next_task_fails_with_the_reason_of_a_refusal(run, refused, tmp_path):
    from pergola.pipelines.kubeflow import tasks

    run("validate", "split", "shards")
    given = {"dataset": "d", "model": "leaves", "workspace": str(tmp_path / "work"),
             "settings": to_toml(Settings()), "search": {"trials": 1}, "index": 0, "count": 2,
             "manifest": FakeArtifact(str(refused)), "split": FakeArtifact(str(tmp_path / "split")),
             "part": FakeArtifact(str(tmp_path / "part")), "shards": FakeArtifact(str(tmp_path / "shards")),
             "trials": FakeArtifact(str(tmp_path / "trials"))}  # fmt: skip
    with pytest.raises(InputError, match=REASON):
        pod.run_part(TRAINING.place, "shards", given)
    with pytest.raises(InputError, match=REASON):
        tasks.tune(given)


def test_a_refusal_fails_the_split_task_where_each_step_has_its_own(run, refused, tmp_path):
    run("validate")
    with pytest.raises(InputError, match=rf"The data cannot be used: {REASON}"):
        run("split")
    assert failure(tmp_path).startswith(f"split failed: The data cannot be used: {REASON}")


def test_an_error_that_is_no_refusal_fails_a_group_at_once(run, sound, tmp_path):
    run("validate", "split", "shards")
    with pytest.raises(StepError, match="full"):
        run("augment")
    assert failure(tmp_path) == "augment failed: The disk is full."
    (sound / "validation.json").write_text("{")
    with pytest.raises(InputError):
        run("validate", "split")
    assert failure(tmp_path).startswith("validate failed: ")


def gate(tmp_path, **decided):
    return step_artifacts.decision(tmp_path / "decision", **decided)


def test_steps_for_accepted_models_are_skipped_in_a_group_of_a_rejected_one(run, tmp_path):
    gate(tmp_path, accepted=False)
    _, given = run(
        "reference", "publish", "final_test", "confirm", "deliver", place=TRAINING.place, pipeline=TRAINING
    )
    assert set(table(given).values()) == {"skipped: the model was rejected"}
    for name in ("reference", "publication", "final_test", "confirmation", "delivery"):
        assert [path.name for path in (tmp_path / name).iterdir()] == [pod.SKIPPED]
    assert not (tmp_path / "work" / "models").exists()


def test_a_held_model_is_not_released_on_a_cluster(run, tmp_path):
    gate(tmp_path, outcome=HELD)
    _, given = run("publish", "confirm", "deliver", place=TRAINING.place, pipeline=TRAINING)
    assert set(table(given).values()) == {"skipped: the model was held"}


def test_the_task_of_the_gate_returns_its_verdict(run, tmp_path):
    """Whatever the step is called: what counts is that it makes the decision."""
    for name in ("evaluation", "smoke_test", "champion_evaluation"):
        (tmp_path / name).mkdir()
    Champion(None).save(tmp_path / "champion")
    for outcome in OUTCOMES:
        assert run("decide", place=f"{__name__}:DECIDES", pipeline=DECIDES, dataset=outcome)[0] == outcome
    held = run("decide", place=f"{__name__}:DECIDES", pipeline=DECIDES, dataset=ACCEPTED, hold=True)
    assert held[0] == HELD


def decide(context, out: Path):
    outcome = HELD if context.hold else context.dataset.name
    Decision(outcome == ACCEPTED, (), (), None, outcome).save(out)


DECIDES = Pipeline("decides", (Step("decide", decide, "decision", code=CODE, group="g"),))


def test_a_step_gets_the_settings_that_it_declares_and_no_others(run, tmp_path):
    for setting in ("train", "gate"):
        with pytest.raises(LookupError, match=f"does not declare the setting '{setting}'"):
            run("greedy", place=f"{__name__}:GREEDY", pipeline=GREEDY, dataset=setting)


def greedy(context, out: Path):
    getattr(context.settings, context.dataset.name)


GREEDY = Pipeline("greedy", (Step("greedy", greedy, "x", code=CODE, group="g", settings=("scan",)),))


def test_settings_are_refused_by_parameter(tmp_path):
    plain = {"dataset": "d", "model": "leaves", "workspace": str(tmp_path)}
    with pytest.raises(InputError, match=r"parameter train: unknown key 'epoch'\. Did you mean 'epochs'"):
        pod.context_of({**plain, "train_settings": {"epoch": 3}})
    found = pod.context_of({**plain, "train_settings": {"epochs": 7.0}, "gate_settings": {}})
    assert (found.settings.train.epochs, type(found.settings.train.epochs)) == (7, int)
    assert records.to_dict(found.settings.gate) == records.to_dict(Settings().gate)


def test_the_registry_is_the_server_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert pod.workspace_of(str(tmp_path)).tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert pod.workspace_of(str(tmp_path)).tracking_uri == "http://mlflow:5000"


def test_a_group_starts_the_model_server_before_the_step_that_uses_it(run, tmp_path):
    asks = {"place": f"{__name__}:SERVED", "pipeline": SERVED}
    gate(tmp_path, accepted=True)
    run("before", "served", **asks)
    assert [(tmp_path / name / "server").read_text() for name in ("before", "served")] == ["True", "True"]
    run("before", **asks)
    assert (tmp_path / "before" / "server").read_text() == "False"
    gate(tmp_path, accepted=False)
    run("before", "served", **asks)
    assert (tmp_path / "before" / "server").read_text() == "False"


def before(context, out: Path, decision: Path):
    (out / "server").write_text(str(context.server is not None and context.server._server.folder.is_dir()))


def served(context, out: Path, decision: Path):
    before(context, out, decision)


SERVED = Pipeline(
    "served",
    (
        Step("decide", decide, "decision", code=CODE, group="g"),
        Step("before", before, "before", code=CODE, group="g"),
        Step("served", served, "served", code=(pod.SERVER,), group="g", outcomes=(ACCEPTED,)),
    ),
)


def test_parts_of_a_scan_make_what_one_scan_makes(tmp_path):
    dataset = write_folder(tmp_path / "dataset", classes=2, per_class=6)
    given = {"dataset": str(dataset), "model": "leaves", "workspace": str(tmp_path / "work"),
             "scan_settings": {"workers": 1.0}}  # fmt: skip
    pod.run(TRAINING.place, ["scan"], {**given, "manifest": FakeArtifact(str(tmp_path / "whole"))})
    parts = [FakeArtifact(str(tmp_path / f"part-{index}")) for index in range(3)]
    for index, part in enumerate(parts):
        pod.run_part(TRAINING.place, "scan", {**given, "part": part, "index": float(index), "count": 3.0})
    merged = FakeArtifact(str(tmp_path / "merged"))
    pod.merge_parts(TRAINING.place, "scan", {**given, "parts": parts, "manifest": merged})
    assert merged.metadata["images"] == 12
    for name in ("manifest.json", "manifest.parquet"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_step_that_resumes_keeps_its_work_in_the_workspace_until_it_is_done(run, tmp_path):
    with pytest.raises(StepError, match="killed"):
        run("long", place=f"{__name__}:LONG", pipeline=LONG, dataset="1")
    (kept,) = (tmp_path / "work" / "state" / "leaves").iterdir()
    assert kept.name.startswith("long-") and (kept / "epochs").read_text() == "1"
    run("long", place=f"{__name__}:LONG", pipeline=LONG, dataset="2")
    assert (tmp_path / "y" / "epochs").read_text() == "12" and not kept.exists()


def long(context, out: Path):
    before = (out / "epochs").read_text() if (out / "epochs").exists() else ""
    (out / "epochs").write_text(before + context.dataset.name)
    if not before:
        raise StepError("killed")


LONG = Pipeline("long", (Step("long", long, "y", code=CODE, group="g", resumes=True),))
