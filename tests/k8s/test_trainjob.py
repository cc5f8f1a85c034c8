"""TrainJobs, made and followed on a server that imitates Kubernetes with Kubeflow Trainer and holds state."""

import pytest

from pergola.k8s.rollout import RolloutError
from pergola.k8s.trainjob import Owner, TrainJob, TrainJobs
from tests.k8s.test_rollout import connect
from tests.support.trainer import COMPLETE, FAILED, Chapter, FakeTrainer

FIRST = ("2026-11-21T10:00:01.100000000Z", "epoch=1")
SECOND = ("2026-11-21T10:00:01.900000000Z", "epoch=2")
THIRD = ("2026-11-21T10:00:07.000000000Z", "epoch=3")
UNPULLED = {
    "phase": "Pending",
    "containerStatuses": [
        {"name": "node", "ready": False,
         "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image pergola:9"}}}
    ],
}  # fmt: skip
HOMELESS = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes have enough nvidia.com/gpu"}
    ],
}


def job(**changes):
    return TrainJob(
        **{"name": "train-leaves-1f", "namespace": "kubeflow", "runtime": "pergola-train",
           "image": "pergola:1-gpu",
           "command": ("python3", "-m", "pergola.pipelines.kubeflow.pod_workers", "/w"),
           "num_workers": 2, **changes}
    )  # fmt: skip


def run(story, wanted=None, **options):
    """What a job's run says, its lines, and the cluster afterwards."""
    lines = []
    with FakeTrainer(story) as fake:
        fake.__dict__.update(options.pop("cluster", {}))
        said = ""
        try:
            TrainJobs(connect(fake)).run(wanted or job(), on_line=lines.append, poll_s=0.01, **options)
        except RolloutError as error:
            said = str(error)
    return said, lines, fake


def test_a_job_is_followed_to_its_end_and_each_line_is_handed_on_once():
    two = Chapter(log=[FIRST, SECOND])
    story = [Chapter(pods=[]), Chapter(log=[FIRST]), two, two, Chapter([COMPLETE], [FIRST, SECOND, THIRD])]
    said, lines, fake = run(story)
    assert (said, lines) == ("", ["epoch=1", "epoch=2", "epoch=3"])
    assert len(fake.made) == 1 and fake.jobs == {}


def test_what_is_asked_for():
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


def test_nodes_are_asked_for_by_a_patch_of_the_runtime():
    wanted = job(node_selector={"gpu": "a100"}, tolerations=({"key": "gpu", "operator": "Exists"},))
    (patch,) = run([Chapter([COMPLETE])], wanted)[2].made[0]["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod == {"nodeSelector": {"gpu": "a100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}


def test_a_job_that_runs_already_is_followed():
    with FakeTrainer([Chapter(), Chapter([COMPLETE])]) as fake:
        jobs = TrainJobs(connect(fake))
        jobs._make(job())
        jobs.run(job(), poll_s=0.01)
        assert len(fake.made) == 1 and fake.jobs == {}


def test_a_job_that_failed_before_is_made_anew():
    with FakeTrainer([Chapter([FAILED]), Chapter([COMPLETE])]) as fake:
        jobs = TrainJobs(connect(fake))
        jobs._make(job())
        jobs.run(job(), poll_s=0.01)
        assert len(fake.made) == 2 and fake.jobs == {}


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ([Chapter(log=[FIRST]), Chapter([FAILED], [FIRST, THIRD])],
         "train-leaves-1f failed: jobset failed. Its last words: epoch=1 / epoch=3"),
        ([Chapter(pods=[UNPULLED])], "cannot start node: ImagePullBackOff: Back-off pulling image pergola:9"),
        ([Chapter(), Chapter(gone=True)], "was deleted by somebody while it ran"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_end_well_is_told_with_its_reason_and_deleted(story, message):
    said, _, fake = run(story)
    assert message in said and fake.jobs == {}


def test_a_job_without_nodes_is_given_up_when_its_time_is_over():
    said, _, fake = run([Chapter(pods=[HOMELESS])], start_timeout_s=0.05)
    assert "finds no node: 0/3 nodes have enough nvidia.com/gpu" in said and fake.jobs == {}


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"installed": False}, "install Kubeflow Trainer, or train with one worker"),
        ({"runtimes": set()}, "TrainingRuntime not found"),
        ({"forbidden": {"trainjobs"}}, "not allowed"),
    ],
)
def test_a_cluster_that_cannot_run_jobs_says_why(cluster, message):
    said, _, fake = run([], cluster=cluster)
    assert message in said and fake.made == []


def test_whoever_stops_the_step_stops_the_job():
    with FakeTrainer([Chapter(log=[FIRST])]) as fake:

        def stop(line):
            raise SystemExit(143)

        with pytest.raises(SystemExit):
            TrainJobs(connect(fake)).run(job(), on_line=stop, poll_s=0.01)
        assert len(fake.made) == 1 and fake.jobs == {}
