"""Running TrainJobs, against a stateful server that imitates Kubernetes with Kubeflow Trainer."""

import pytest

from pergola.k8s.rollout import RolloutError
from pergola.k8s.trainjob import Owner, TrainJob, TrainJobs
from tests.k8s.test_rollout import connect
from tests.support.trainer import COMPLETE, FAILED, Chapter, FakeTrainer

FIRST = ("2026-11-21T10:00:01.100000000Z", "epoch=1")
SECOND = ("2026-11-21T10:00:01.900000000Z", "epoch=2")
THIRD = ("2026-11-21T10:00:07.000000000Z", "epoch=3")
NO_IMAGE = {
    "phase": "Pending",
    "containerStatuses": [
        {"name": "node", "ready": False,
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image pergola:9"}}}
    ],
}  # fmt: skip
UNSCHEDULED = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have enough nvidia.com/gpu"}
    ],
}


def job(**changes):
    return TrainJob(
        **{"name": "train-leaves-1f", "namespace": "kubeflow", "runtime": "pergola-train",
           "image": "pergola:1-gpu",
           "command": ("python3", "-m", "pergola.pipelines.kubeflow.workers", "/w"),
           "num_workers": 2, **changes}
    )  # fmt: skip


def run(story, wanted=None, **options):
    """The error of a run, its log lines, and the cluster afterwards."""
    lines = []
    with FakeTrainer(story) as fake:
        fake.__dict__.update(options.pop("cluster", {}))
        said = ""
        try:
            TrainJobs(connect(fake)).run(wanted or job(), on_line=lines.append, poll_s=0.01, **options)
        except RolloutError as error:
            said = str(error)
    return said, lines, fake


def test_run_waits_for_the_end_and_passes_on_each_log_line_once():
    two = Chapter(log=[FIRST, SECOND])
    story = [Chapter(pods=[]), Chapter(log=[FIRST]), two, two, Chapter([COMPLETE], [FIRST, SECOND, THIRD])]
    said, lines, fake = run(story)
    assert (said, lines) == ("", ["epoch=1", "epoch=2", "epoch=3"])
    assert len(fake.made) == 1 and fake.jobs == {}


def test_manifest_holds_workers_environment_resources_and_owner():
    wanted = job(requests={"cpu": "2", "nvidia.com/gpu": "1"}, limits={"nvidia.com/gpu": "1"}, env={"A": "1"},
                 owner=Owner("train-pod", "uid-1"))  # fmt: skip
    made = run([Chapter([COMPLETE])], wanted)[2].made[0]
    assert made["spec"]["trainer"]["numNodes"] == 2
    assert made["spec"]["trainer"]["env"] == [{"name": "A", "value": "1"}]
    assert made["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "1"}
    assert made["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "train-pod", "uid": "uid-1"}
    ]
    assert "runtimePatches" not in made["spec"]


def test_node_selector_and_tolerations_patch_the_runtime():
    wanted = job(node_selector={"gpu": "a100"}, tolerations=({"key": "gpu", "operator": "Exists"},))
    (patch,) = run([Chapter([COMPLETE])], wanted)[2].made[0]["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod == {"nodeSelector": {"gpu": "a100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}


def test_run_adopts_a_job_that_is_running():
    with FakeTrainer([Chapter(), Chapter([COMPLETE])]) as fake:
        jobs = TrainJobs(connect(fake))
        jobs._create(job())
        jobs.run(job(), poll_s=0.01)
        assert len(fake.made) == 1 and fake.jobs == {}


def test_run_replaces_a_job_that_failed():
    with FakeTrainer([Chapter([FAILED]), Chapter([COMPLETE])]) as fake:
        jobs = TrainJobs(connect(fake))
        jobs._create(job())
        jobs.run(job(), poll_s=0.01)
        assert len(fake.made) == 2 and fake.jobs == {}


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ([Chapter(log=[FIRST]), Chapter([FAILED], [FIRST, THIRD])],
         "train-leaves-1f failed: jobset failed. Its last lines: epoch=1 / epoch=3"),
        ([Chapter(pods=[NO_IMAGE])], "cannot start node: ImagePullBackOff: Back-off pulling image pergola:9"),
        ([Chapter(), Chapter(gone=True)], "was deleted while it was running"),
    ],
)  # fmt: skip
def test_run_gives_the_reason_of_a_failure_and_deletes_the_job(story, message):
    said, _, fake = run(story)
    assert message in said and fake.jobs == {}


def test_run_gives_up_on_pods_that_cannot_be_scheduled_in_time():
    said, _, fake = run([Chapter(pods=[UNSCHEDULED])], start_timeout_s=0.05)
    assert "cannot be scheduled: 0/3 nodes have enough nvidia.com/gpu" in said and fake.jobs == {}


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"installed": False}, "install Kubeflow Trainer, or train with one worker"),
        ({"runtimes": set()}, "TrainingRuntime not found"),
        ({"forbidden": {"trainjobs"}}, "not allowed"),
    ],
)
def test_run_says_why_a_cluster_cannot_run_jobs(cluster, message):
    said, _, fake = run([], cluster=cluster)
    assert message in said and fake.made == []


def test_stopping_the_step_deletes_the_job():
    with FakeTrainer([Chapter(log=[FIRST])]) as fake:

        def stop(line):
            raise SystemExit(143)

        with pytest.raises(SystemExit):
            TrainJobs(connect(fake)).run(job(), on_line=stop, poll_s=0.01)
        assert len(fake.made) == 1 and fake.jobs == {}
