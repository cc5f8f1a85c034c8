import json

import click
import pytest
import yaml
from click.testing import CliRunner

from pergola.pipelines.commands import kubeflow as kubeflow_commands
from tests.pipelines.kubeflow.server import write_pipeline

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SCHEDULE = """
[[schedule]]
name = "nightly"
package = "p.yaml"
cron = "0 3 * * *"
"""


@pytest.fixture
def pergola(kubeflow, tmp_path, monkeypatch):
    """Runs a command against the server, in a folder with p.yaml; gives status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url)
    write_pipeline(
        tmp_path / "p.yaml", "leaves", {"gpus": {"parameterType": "NUMBER_INTEGER", "isOptional": True}}
    )
    group = click.Group("pergola")
    kubeflow_commands.register(group)

    def run(*arguments):
        result = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    return run


def test_compile_writes_a_pipeline_with_the_settings(pergola, tmp_path):
    (tmp_path / "pods.toml").write_text('memory_limit = "9Gi"\n')
    status, out, _ = pergola("compile", "-o", "a.yaml", "--set", "train.epochs=4", "--cluster", "pods.toml",
                             "--image", "reg/p:1", "--json")  # fmt: skip
    assert (status, json.loads(out)) == (0, {"path": "a.yaml", "pipeline": "training"})
    spec = next(yaml.load_all((tmp_path / "a.yaml").read_text(), Loader=yaml.CSafeLoader))
    assert spec["root"]["inputDefinitions"]["parameters"]["train"]["defaultValue"]["epochs"] == 4
    data = spec["deploymentSpec"]["executors"]["exec-data"]["container"]
    assert data["image"] == "reg/p:1" and data["resources"]["resourceMemoryLimit"] == "9Gi"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compile", "-o", "a.json"), "must end with .yaml"),
        (("compile", "--set", "train.epoch=4"), "Did you mean 'epochs'"),
        (("compile", "--cluster", "none.toml"), "none.toml cannot be read"),
        (("submit", "--package", "p.yaml", "--param", "gpus"), "--param must be NAME=VALUE"),
        (("submit", "--package", "p.yaml", "--uploaded", "x"), "exclude each other"),
        (("submit", "--uploaded", "x"), "no pipeline 'x'"),
        (("submit", "--model", "leaves"), "DATASET, the path of the images as pods see it, is missing"),
        (("submit", "/dataset"), "--model, the name under which the model is released, is missing"),
        (("submit", "/dataset", "--model", "my leaves"), "'my leaves' cannot be a model's name"),
        (("runs", "--experiment", "none"), "no experiment 'none'"),
        (("runs", "--host", "nowhere"), "'nowhere' is not an address"),
        (("schedule", "apply", "none.toml"), "none.toml does not exist"),
        (("schedule", "delete", "none"), "no schedule 'none'"),
    ],
)
def test_commands_tell_the_callers_mistakes_in_one_line(pergola, arguments, words):
    status, out, err = pergola(*arguments, "--json")
    assert status == 2 and words in err and "Traceback" not in err
    assert words in json.loads(out)["error"]
    assert err.strip().count("\n") == 0


def test_submit_waits_and_ends_with_the_runs_state(pergola, kubeflow):
    kubeflow.script = [{"state": "SUCCEEDED"}]
    status, out, err = pergola("submit", "--package", "p.yaml", "--param", "gpus=2", "--wait", "--json")
    answer = json.loads(out)
    assert (status, answer["state"], answer["ok"]) == (0, "SUCCEEDED", True)
    assert f"/#/runs/details/{answer['id']}" in err
    assert kubeflow.bodies("/apis/v2beta1/runs")[0]["runtime_config"]["parameters"] == {"gpus": 2}
    failed = {
        "task_id": "1",
        "display_name": "train",
        "state": "FAILED",
        "error": {"code": 1, "message": "no space"},
    }
    kubeflow.script = [{"state": "FAILED", "run_details": {"task_details": [failed]}}]
    status, out, err = pergola("submit", "--package", "p.yaml", "--wait")
    assert status == 1 and "train failed: no space" in err and out.strip().endswith("FAILED")


def test_submit_compiles_ours_with_dataset_and_model(pergola, kubeflow):
    status, out, _ = pergola(
        "submit", "/dataset", "--model", "leaves", "--pipeline", "retraining", "--no-caching",
        "--set", "gate.min_accuracy=0.9",
    )  # fmt: skip
    (body,) = kubeflow.bodies("/apis/v2beta1/runs")
    assert status == 0 and out.strip() in kubeflow.runs
    assert body["runtime_config"]["parameters"] == {"dataset": "/dataset", "model": "leaves"}
    declared = body["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert body["display_name"] == "retraining" and declared["gate"]["defaultValue"]["min_accuracy"] == 0.9


def test_submit_without_release_has_the_gate_hold_what_it_accepts(pergola, kubeflow):
    assert pergola("submit", "/dataset", "--model", "leaves", "--no-release")[0] == 0
    (body,) = kubeflow.bodies("/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"]["hold"] is True
    spec = body["pipeline_spec"]["pipeline_spec"]["components"]
    inputs = [
        task["inputs"]["parameters"]["hold"]["componentInputParameter"]
        for component in spec.values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "decision" in spec[task["componentRef"]["name"]].get("outputDefinitions", {}).get("artifacts", {})
    ]
    assert len(inputs) == 1 and inputs[0].endswith("hold")


def test_submit_takes_the_dataset_by_its_old_name_with_one_warning(pergola, kubeflow, caplog):
    given = ("--param", "photos=/dataset", "--model", "leaves", "--set", "rehearse.rounds=2")
    assert pergola("submit", *given)[0] == 0
    (body,) = kubeflow.bodies("/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"] == {"dataset": "/dataset", "model": "leaves"}
    declared = body["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert declared["smoke_test"]["defaultValue"]["rounds"] == 2
    warnings = [record.getMessage() for record in caplog.records]
    assert len([text for text in warnings if "'photos' is now called 'dataset'" in text]) == 1
    assert len([text for text in warnings if "'rehearse' is now called 'smoke_test'" in text]) == 1


def test_runs_and_schedules_are_listed(pergola, tmp_path):
    (tmp_path / "s.toml").write_text(SCHEDULE)
    pergola("submit", "--package", "p.yaml", "--name", "first")
    assert "first" in pergola("runs")[1]
    status, out, _ = pergola("schedule", "apply", "s.toml")
    assert status == 0 and out.startswith("created") and out.count("T03:00:00+00:00") == 3
    assert pergola("schedule", "pause", "nightly")[1].startswith("paused")
    (listed,) = json.loads(pergola("schedule", "list", "--json")[1])
    assert (listed["name"], listed["enabled"], listed["set"]) == ("nightly", False, "s")
    assert pergola("schedule", "resume", "nightly")[1].startswith("resumed")
    assert pergola("schedule", "delete", "nightly")[1].split() == ["deleted", "nightly", *"003***"]
    assert pergola("schedule", "list")[1] == "No schedules.\n"
