"""Waits for a run on Kubeflow: reports the states of its tasks, and why a task failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pergola.components.errors import StepError
from pergola.k8s import pods
from pergola.pipelines.kubeflow.client import connection as kubeflow
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection
from pergola.pipelines.kubeflow.client.submit import RunLine, line
from pergola.pipelines.kubeflow.cluster import RUN_LABEL_KEY

DONE = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
LOG_LINES = 15

# Tasks that Kubeflow adds around ours, by the names that its compiler gives them.
_KUBEFLOWS_OWN = re.compile(
    r"(root|executor)(\(.*\))?|.*-driver|(exit-handler|condition|condition-branches|for-loop)-\d+"
    r"|iteration-(item|iterations)(\(.*\))?|.*\.onExit"
)
_TRIES = 5


@dataclass(frozen=True)
class Failure:
    """A task that failed."""

    step: str
    error: str  # the message from the server
    log: str  # the last lines of its pod's log, empty when they are gone

    def text(self) -> str:
        """As one paragraph."""
        tail = "".join(f"\n    {text}" for text in self.log.splitlines())
        missing = "" if self.log else "no reason given, and its log is gone"
        return f"{self.step} failed: {self.error or missing}".rstrip(": ") + tail


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended."""

    run: RunLine
    failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.run.state in ("SUCCEEDED", "SKIPPED")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.run.to_json(), "ok": self.ok, "failures": [vars(f) for f in self.failures]}


def wait(
    connection: KubeflowConnection,
    run_id: str,
    *,
    say: Callable[[str], None] = lambda text: None,
    timeout_s: float = 24 * 3600,
    poll_s: float = 5.0,
    stall_s: float = 300.0,
) -> RunOutcome:
    """The outcome of a run, once it has ended.

    say: gets a line when a task changes its state. Interrupted connections are retried five times, an
    expired token is read again from its source.  stall_s: after so long without a change, the run's pods
    are inspected. Raises StepError on a timeout (the run continues) or when a pod cannot start, InputError
    for an unknown run.
    """
    poller = _Poller(connection, run_id, say)
    deadline = time.monotonic() + timeout_s
    while True:
        run = poller.poll(poll_s)
        if run.state in DONE:
            return RunOutcome(line(connection, run), tuple(_failures(poller.client, run)))
        poller.inspect_pods(run, stall_s)
        if time.monotonic() + poll_s > deadline:
            raise StepError(
                f"Run {run_id} is still {run.state} after {timeout_s:g} s; it continues on the cluster."
            )
        time.sleep(poll_s)


def raise_for(outcome: RunOutcome) -> None:
    """Raises StepError with the errors of the failed tasks when the run did not succeed."""
    if outcome.ok:
        return
    why = "\n".join(f.text() for f in outcome.failures) or outcome.run.error or "no task reported an error"
    raise StepError(f"Run {outcome.run.id} ended {outcome.run.state}.\n{why}\n{outcome.run.link}".rstrip())


class _Poller:
    """Polls one run."""

    def __init__(self, connection: KubeflowConnection, run_id: str, say: Callable[[str], None]) -> None:
        self.connection, self.run_id, self.say = connection, run_id, say
        self.where = connection.address() or "the cluster"
        self.client = kubeflow.connect(connection)
        self.states: dict[str, str] = {}
        self.renewed = False
        self.changed_at = time.monotonic()
        self.reported = ""

    def poll(self, pause_s: float) -> Any:
        """The run as it is now; reports tasks whose state changed."""
        run = self._run(pause_s)
        for task in _our_tasks(run):
            if task.state and self.states.get(task.task_id) != task.state:
                self.states[task.task_id] = task.state
                self.changed_at = time.monotonic()
                self.say(f"{task.display_name:<18}{task.state.lower()}")
        return run

    def inspect_pods(self, run: Any, stall_s: float) -> None:
        """Report why nothing happens: a pod whose image does not exist stays pending for ever.

        Raises StepError when a pod cannot start.
        """
        if time.monotonic() - self.changed_at < stall_s:
            return
        self.changed_at = time.monotonic()
        namespace = self.connection.namespace or self.connection.pipelines_namespace
        found = _pods(namespace, self.run_id)
        hopeless = [text for pod in found or () if (text := pods.trouble(pod, late=False))]
        if hopeless:
            raise StepError(
                f"Run {self.run_id} cannot continue: {hopeless[0]} It waits until the task's time limit: "
                f"terminate it in Kubeflow's UI, fix the cause, and submit it again."
            )
        waiting = [p for p in found or () if p.get("status", {}).get("phase") == "Pending"]
        text = next(filter(None, (pods.trouble(pod, late=True) for pod in waiting)), "")
        if found is None and any(task.state == "PENDING" for task in _tasks(run)):
            text = f"why pods wait: kubectl -n {namespace} get pods -l {RUN_LABEL_KEY}={self.run_id}"
        if text and text != self.reported:
            self.reported = text
            self.say(f"No task has changed its state for {stall_s:g} s; {text}")

    def _run(self, pause_s: float) -> Any:
        import kfp_server_api
        import urllib3

        with kubeflow.explain(self.where, f"to read run {self.run_id}"):
            for attempt in range(1, _TRIES + 1):
                try:
                    api = self.client.runs
                    run = api.run_service_get_run(self.run_id, _request_timeout=kubeflow.TIMEOUT_S)
                    self.renewed = False
                    return run
                except kfp_server_api.ApiException as error:
                    if error.status == 401 and not self.renewed:
                        self.renewed = True
                        self.client = kubeflow.connect(self.connection)
                    elif error.status < 500 or attempt == _TRIES:
                        raise
                except urllib3.exceptions.HTTPError:
                    if attempt == _TRIES:
                        raise
                time.sleep(pause_s * attempt)
        raise AssertionError("unreachable")


def _pods(namespace: str, run_id: str) -> list[Any] | None:
    """The pods of a run; None without access to the cluster."""
    from pergola.k8s.rollout import Cluster, RolloutError

    try:
        selector = {RUN_LABEL_KEY: run_id}
        return list(Cluster.connect().items(f"/api/v1/namespaces/{namespace}/pods", selector))
    except RolloutError:
        return None


def _our_tasks(run: Any) -> Iterable[Any]:
    """Tasks of our pipeline, without those that Kubeflow adds."""
    return [task for task in _tasks(run) if not _is_kubeflows_own(task)]


def _tasks(run: Any) -> list[Any]:
    return list((run.run_details.task_details if run.run_details else None) or ())


def _is_kubeflows_own(task: Any) -> bool:
    name = task.display_name or ""
    is_workflow = any((c.pod_name or "").startswith(f"{name}-") for c in task.child_tasks or ())
    return bool(_KUBEFLOWS_OWN.fullmatch(name)) or is_workflow or name == task.run_id


def _failures(client: Any, run: Any) -> Iterable[Failure]:
    """One failure per task. The server knows which tasks failed, but rarely why or in which pod."""
    failed = [task for task in _tasks(run) if task.state == "FAILED"]
    names = list(dict.fromkeys(name for task in failed if (name := _task_of(task))))
    for name in names:
        own = [task for task in failed if _task_of(task) == name]
        ids = {task.task_id for task in own} | {c.task_id for task in own for c in task.child_tasks or ()}
        inner = [t for t in failed if not _task_of(t) and (t.parent_task_id in ids or t.task_id in ids)]
        if len(names) == 1:  # then every failed pod belongs to it
            inner += [t for t in failed if (t.display_name or "").startswith("executor") and t not in inner]
        error = next(filter(None, (_error(task) for task in [*inner, *own, run])), "")
        yield Failure(name, error, next(filter(None, (_log(client, run.run_id, t) for t in own + inner)), ""))


def _task_of(task: Any) -> str:
    """Name of our task that a server's task is, or prepares; empty for Kubeflow's own tasks."""
    name = str(task.display_name or "")
    if name.endswith("-driver"):
        return name.removesuffix("-driver")
    return "" if _is_kubeflows_own(task) else name


def _error(holder: Any) -> str:
    return str(holder.error.message).strip() if holder.error and holder.error.message else ""


def _log(client: Any, run_id: str, task: Any) -> str:
    """The end of a pod's log, if the server still has it."""
    import kfp_server_api
    import urllib3

    pods = [child.pod_name for child in task.child_tasks or () if child.pod_name]
    for pod in filter(None, [task.pod_name, *pods]):
        try:
            api = client.runs.run_service_get_run.__self__.api_client
            answer = api.call_api(
                f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log",
                "GET",
                auth_settings=["Bearer"],
                _preload_content=False,
                _request_timeout=kubeflow.TIMEOUT_S,
            )
            return "\n".join(answer.data.decode("utf-8", "replace").splitlines()[-LOG_LINES:])
        except (kfp_server_api.ApiException, urllib3.exceptions.HTTPError):
            continue
    return ""
