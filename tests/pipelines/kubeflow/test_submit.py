import re

import pytest

from pergola.components.errors import InputError, StepError
from pergola.pipelines.kubeflow import compiled
from pergola.pipelines.kubeflow.client import submit, wait
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection
from pergola.pipelines.kubeflow.client.submit import Request
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from tests.pipelines.kubeflow.server import write_pipeline
from tests.support.cluster import FakeCluster

PARAMETERS = {
    "dataset": {"parameterType": "STRING"},
    "train": {"parameterType": "STRUCT", "defaultValue": {"epochs": 5}},
    "gpus": {"parameterType": "NUMBER_INTEGER", "isOptional": True},
    "share": {"parameterType": "NUMBER_DOUBLE", "isOptional": True},
    "force": {"parameterType": "BOOLEAN", "isOptional": True},
}


@pytest.fixture
def package(tmp_path):
    return write_pipeline(tmp_path / "pipeline.yaml", "leaves", PARAMETERS)


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def connection(kubeflow, **options):
    return KubeflowConnection(host=kubeflow.url, **options)


def test_submit_sends_the_compiled_file_and_its_parameters(kubeflow, package, capsys):
    path, spec = package
    asked = {"dataset": "/data/leaves", "train": '{"epochs": 3}', "gpus": "1", "force": "true", "share": 1}
    run = submit.submit(connection(kubeflow), Request(path, parameters=asked, service_account="runner"))
    (body,) = kubeflow.bodies("/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"] == {
        "dataset": "/data/leaves", "train": {"epochs": 3}, "gpus": 1, "force": True, "share": 1,
    }  # fmt: skip
    assert body["pipeline_spec"]["pipelineInfo"] == spec["pipelineInfo"]
    assert (body["display_name"], body["service_account"]) == ("leaves", "runner")
    assert kubeflow.experiments[body["experiment_id"]]["display_name"] == "pergola"
    assert run.link == f"{kubeflow.url}/#/runs/details/{run.id}" and run.state == "PENDING"
    assert run.finished_at is None and capsys.readouterr().out == ""


def test_submit_says_how_to_send_a_pipeline_to_a_server_that_is_too_old_for_a_users_id(kubeflow, tmp_path):
    kubeflow.unknown_field = "securityContext"
    asked = Request(tmp_path / "new.yaml", parameters={"dataset": "/data", "model": "m"})
    compiled.compile_to(asked.package)
    with pytest.raises(InputError, match=r"older than 2\.16.*`security_context = false`"):
        submit.submit(connection(kubeflow), asked)
    compiled.compile_to(asked.package, cluster=ClusterSettings(security_context=False))
    assert submit.submit(connection(kubeflow), asked).state == "PENDING"


def test_submit_takes_the_newest_version_of_an_uploaded_pipeline(kubeflow, package):
    kubeflow.add_pipeline("other", package[1])
    id = kubeflow.add_pipeline("leaves", package[1], package[1], package[1])
    request = Request(pipeline="leaves", parameters={"dataset": "x"})
    submit.submit(connection(kubeflow), request)
    submit.submit(connection(kubeflow), Request(pipeline="leaves", version="v1", parameters={"dataset": "x"}))
    newest, first = (b["pipeline_version_reference"] for b in kubeflow.bodies("/apis/v2beta1/runs"))
    assert newest == {
        "pipeline_id": id,
        "pipeline_version_id": kubeflow.versions[id][2]["pipeline_version_id"],
    }
    assert first["pipeline_version_id"] == kubeflow.versions[id][0]["pipeline_version_id"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({}, "needs a value for dataset: --param dataset="),
        ({"dataset": "x", "gpu": 1}, "no parameter 'gpu'. Did you mean 'gpus'?"),
        ({"dataset": "x", "gpus": "two"}, "Parameter gpus must be a whole number, got 'two'"),
        ({"dataset": "x", "gpus": 1.5}, "Parameter gpus must be a whole number, got 1.5"),
        ({"dataset": "x", "gpus": True}, "Parameter gpus must be a whole number, got true"),
        ({"dataset": "x", "train": "[]"}, "Parameter train must be a JSON object, got []"),
        ({"dataset": "x", "force": "1"}, "Parameter force must be true or false, got 1"),
    ],
)
def test_submit_checks_parameters_before_anything_is_created(kubeflow, package, parameters, words):
    with pytest.raises(InputError, match=re.escape(words)):
        submit.submit(connection(kubeflow), Request(package[0], parameters=parameters))
    assert kubeflow.changes() == []


def test_names_of_parameters_in_0_1_0_are_still_accepted(kubeflow, tmp_path, caplog):
    declared = {"dataset": {"parameterType": "STRING"}, "smoke_test": {"parameterType": "STRUCT"}}
    package, _ = write_pipeline(tmp_path / "new.yaml", "leaves", declared)
    old = {"photos": "/data", "rehearse": '{"rounds": 2}'}
    submit.submit(connection(kubeflow), Request(package, parameters=old))
    (body,) = kubeflow.bodies("/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"] == {"dataset": "/data", "smoke_test": {"rounds": 2}}
    assert [record.getMessage() for record in caplog.records] == [
        "parameters: 'photos' is now called 'dataset'. The old name works for one more release.",
        "parameters: 'rehearse' is now called 'smoke_test'. The old name works for one more release.",
    ]


def test_a_file_that_0_1_0_compiled_keeps_its_parameters(kubeflow, tmp_path, caplog):
    package, _ = write_pipeline(tmp_path / "old.yaml", "leaves", {"photos": {"parameterType": "STRING"}})
    submit.submit(connection(kubeflow), Request(package, parameters={"photos": "/data"}))
    (body,) = kubeflow.bodies("/apis/v2beta1/runs")
    assert body["runtime_config"]["parameters"] == {"photos": "/data"} and not caplog.records


def test_submit_refuses_unknown_names_with_the_nearest(kubeflow, package):
    kubeflow.add_pipeline("leaves", package[1])
    kubeflow.experiments["1"] = {
        "experiment_id": "1",
        "display_name": "nightly",
        "created_at": kubeflow.tick(),
    }
    to = connection(kubeflow)
    good = {"dataset": "x"}
    with pytest.raises(InputError, match=r"no pipeline 'leafs'. Did you mean 'leaves'"):
        submit.submit(to, Request(pipeline="leafs"))
    with pytest.raises(InputError, match=r"'leaves' has no version 'v2'. Known: v1"):
        submit.submit(to, Request(pipeline="leaves", version="v2"))
    with pytest.raises(
        InputError, match=r"no experiment 'nightli'. Did you mean 'nightly'.*submit --create-experiment"
    ):
        submit.submit(to, Request(package[0], parameters=good, experiment="nightli"))
    assert kubeflow.changes() == []
    for name in ("weekly", "50% + more", "weekly", "50% + more"):
        submit.submit(to, Request(package[0], parameters=good, experiment=name, create_experiment=True))
    names = [e["display_name"] for e in kubeflow.experiments.values()]
    assert names == ["nightly", "weekly", "50% + more"]


def test_submit_refuses_what_is_no_compiled_pipeline(kubeflow, tmp_path):
    for name, text in {"a.yaml": "x: [", "b.yaml": "x: 1", "c.yaml": ""}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=f"{name}.*pergola compile"):
            submit.submit(connection(kubeflow), Request(tmp_path / name))
    with pytest.raises(InputError, match=r"d\.yaml cannot be read"):
        submit.submit(connection(kubeflow), Request(tmp_path / "d.yaml"))


def test_runs_lists_the_newest_first_over_pages(kubeflow, package):
    to = connection(kubeflow)
    for n in range(5):
        submit.submit(to, Request(package[0], parameters={"dataset": "x"}, name=f"run {n}"))
    assert [run.name for run in submit.runs(to, limit=4)] == ["run 4", "run 3", "run 2", "run 1"]
    assert "run 4" in submit.table(submit.runs(to))
    with pytest.raises(InputError, match=r"no experiment 'perg'. Did you mean 'pergola'"):
        submit.runs(to, experiment="perg")
    assert submit.runs(to, experiment="pergola")[0].to_json()["created_at"].startswith("2026-11-21T")


def task(id, name, state, **more):
    return {"task_id": id, "display_name": name, "state": state, **more}


def state(name, *tasks, **more):
    return {"state": name, "run_details": {"task_details": list(tasks)}, **more}


def started(kubeflow, package):
    return submit.submit(connection(kubeflow), Request(package[0], parameters={"dataset": "x"})).id


def test_wait_says_states_and_ends_with_success(kubeflow, package):
    run = started(kubeflow, package)
    plumbing = [task("0", "root", "RUNNING"), task("1", "scan-driver", "SUCCEEDED")]
    kubeflow.script = [
        state("RUNNING", *plumbing, task("2", "scan", "RUNNING")),
        state("RUNNING", *plumbing, task("2", "scan", "SUCCEEDED"), task("3", "train", "RUNNING")),
        state("SUCCEEDED", task("3", "train", "SUCCEEDED"), finished_at=kubeflow.tick()),
    ]
    said = []
    outcome = wait.wait(connection(kubeflow), run, say=said.append, poll_s=0.01)
    assert [line.split() for line in said] == [
        ["scan", "running"], ["scan", "succeeded"], ["train", "running"], ["train", "succeeded"],
    ]  # fmt: skip
    assert outcome.ok and outcome.run.finished_at is not None
    wait.raise_for(outcome)


def test_wait_tells_the_failing_step_its_error_and_its_log(kubeflow, package):
    run = started(kubeflow, package)
    kubeflow.logs["leaves-train-1"] = "".join(f"line {n}\n" for n in range(40)) + "No space left on device\n"
    why = {"code": 1, "message": "Error (exit code 1)"}
    kubeflow.script = [
        state(
            "FAILED",
            task("0", "root", "FAILED", child_tasks=[{"task_id": "1"}, {"task_id": "2"}]),
            task("1", "scan", "SUCCEEDED"),
            task("2", "train", "FAILED", child_tasks=[{"task_id": "3"}]),
            task("3", "executor", "FAILED", pod_name="leaves-train-1", error=why),
            error={"code": 13, "message": "Run failed"},
        )
    ]
    outcome = wait.wait(connection(kubeflow), run, poll_s=0.01)
    (failure,) = outcome.failures
    assert (failure.step, failure.error) == ("train", "Error (exit code 1)")
    assert failure.log.splitlines()[-1] == "No space left on device" and len(failure.log.splitlines()) == 15
    with pytest.raises(StepError, match=r"(?s)ended FAILED.*train failed: Error .exit code 1.*No space left"):
        wait.raise_for(outcome)
    assert outcome.to_json()["failures"][0]["step"] == "train"


def as_argo_has_it(name, states, children=()):
    """Tasks as the API server 2.x makes them of a workflow: no parents, no errors, no pod of their own."""
    pods = {node: f"{name}-{template}-{n}" for n, (node, template, _) in enumerate(states)}
    return [
        task(
            f"id-{n}", node, value, child_tasks=[{"pod_name": pods[c]} for c in dict(children).get(node, ())]
        )
        for n, (node, _, value) in enumerate(states)
    ]


def test_wait_finds_the_failing_step_among_the_nodes_of_a_workflow(kubeflow, package):
    run, name = started(kubeflow, package), "leaves-x7k2p"
    nodes = [
        (name, "entrypoint", "FAILED"), ("root-driver", "system-dag-driver", "SUCCEEDED"),
        ("root", "root", "FAILED"), ("exit-handler-1-driver", "system-dag-driver", "SUCCEEDED"),
        ("exit-handler-1", "comp-exit-handler-1", "FAILED"),
        ("scan-driver", "system-container-driver", "SUCCEEDED"),
        ("scan", "system-container-executor", "SUCCEEDED"), ("executor", "impl", "SUCCEEDED"),
        ("train-driver", "system-container-driver", "SUCCEEDED"),
        ("train", "retry-system-container-executor", "FAILED"), ("executor", "retry-impl", "FAILED"),
        ("executor(0)", "retry-impl", "FAILED"), ("exit-handler-1.onExit", "exit-hook", "SUCCEEDED"),
        ("finish", "system-container-executor", "SUCCEEDED"),
    ]  # fmt: skip
    children = {name: ["root-driver"], "train": ["executor"], "executor": ["executor(0)"]}
    tasks = as_argo_has_it(name, nodes, children)
    kubeflow.logs[f"{name}-retry-impl-11"] = "pergola: Training broke down: the loss became nan\n"
    kubeflow.script = [state("FAILED", *tasks)]
    said = []
    outcome = wait.wait(connection(kubeflow), run, say=said.append, poll_s=0.01)
    assert [line.split() for line in said] == [
        ["scan", "succeeded"], ["train", "failed"], ["finish", "succeeded"],
    ]  # fmt: skip
    (failure,) = outcome.failures
    assert failure.text() == "train failed\n    pergola: Training broke down: the loss became nan"


def test_wait_names_a_step_whose_driver_failed(kubeflow, package):
    run = started(kubeflow, package)
    nodes = [
        ("leaves-x", "entrypoint", "FAILED"), ("root", "root", "FAILED"),
        ("scan-driver", "system-container-driver", "FAILED"), ("scan", "executor", "SKIPPED"),
    ]  # fmt: skip
    kubeflow.script = [state("FAILED", *as_argo_has_it("leaves-x", nodes, {"leaves-x": ["root"]}))]
    (failure,) = wait.wait(connection(kubeflow), run, poll_s=0.01).failures
    assert failure.text() == "scan failed: no reason given, and its log is gone"


def test_wait_survives_a_broken_connection_and_a_renewed_token(kubeflow, package, tmp_path):
    run = started(kubeflow, package)
    kubeflow.script = [{"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    kubeflow.token, file = "old", tmp_path / "token"
    file.write_text("old\n")

    to = connection(kubeflow, token_file=file)
    kubeflow.failures = [503, 502]
    poller = wait._Poller(to, run, print)
    assert poller.poll(0.01).state == "RUNNING"
    for token, wanted in (("new", "RUNNING"), ("newer", "SUCCEEDED")):
        kubeflow.token = token
        file.write_text(f"{token}\n")
        assert poller.poll(0.01).state == wanted
    kubeflow.token = "newest"
    with pytest.raises(InputError, match="does not accept the token"):
        poller.poll(0.01)


def test_wait_gives_up_when_the_time_is_over(kubeflow, package):
    run = started(kubeflow, package)
    with pytest.raises(StepError, match=r"still PENDING after 0.05 s; it continues"):
        wait.wait(connection(kubeflow), run, poll_s=0.02, timeout_s=0.05)
    with pytest.raises(InputError, match=r"404.*nope not found"):
        wait.wait(connection(kubeflow), "nope")
    kubeflow.failures = [503] * 5
    with pytest.raises(StepError, match=r"503.*upstream connect error"):
        wait.wait(connection(kubeflow), run, poll_s=0.001)


def pod_of(run, status):
    return {
        "kind": "Pod",
        "metadata": {"name": "leaves-1", "namespace": "kubeflow", "labels": {"pipeline/runid": run}},
        "status": status,
    }


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with FakeCluster() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path / "kubeconfig")))
        yield fake


def test_wait_ends_when_a_pod_cannot_start(kubeflow, package, cluster):
    run = started(kubeflow, package)
    kubeflow.script = [state("RUNNING", task("1", "scan", "PENDING"))] * 50
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image reg.example/none:1"}
    status = {"phase": "Pending", "containerStatuses": [{"name": "main", "state": {"waiting": waiting}}]}
    cluster.objects["/api/v1/namespaces/kubeflow/pods/leaves-1"] = pod_of(run, status)
    with pytest.raises(
        StepError, match=rf"{run} cannot continue: leaves-1 cannot start main: ImagePullBackOff"
    ):
        wait.wait(connection(kubeflow), run, poll_s=0.01, stall_s=0.02)


def test_wait_says_what_pods_wait_for_and_goes_on(kubeflow, package, cluster, monkeypatch, tmp_path):
    run, said = started(kubeflow, package), []
    condition = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: insufficient memory"}
    where = "/api/v1/namespaces/kubeflow/pods/leaves-1"
    cluster.objects[where] = pod_of(run, {"phase": "Pending", "conditions": [condition]})
    pending = [state("RUNNING", task("1", "scan", "PENDING"))] * 10
    kubeflow.script = [*pending, {"state": "SUCCEEDED"}]
    wait.wait(connection(kubeflow), run, say=said.append, poll_s=0.01, stall_s=0.02)
    assert [line for line in said if "No task has changed its state" in line] == [
        "No task has changed its state for 0.02 s; leaves-1 cannot be scheduled: 0/3 nodes: insufficient "
        "memory"
    ]
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    kubeflow.script = [*pending, {"state": "SUCCEEDED"}]
    wait.wait(connection(kubeflow), run, say=said.append, poll_s=0.01, stall_s=0.02)
    assert f"kubectl -n kubeflow get pods -l pipeline/runid={run}" in said[-1]
