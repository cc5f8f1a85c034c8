"""Waits for a run on Kubeflow, says what its steps do, and why one failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pergola.components.errors import StepError
from pergola.k8s import pods
from pergola.pipelines.kubeflow import connection as kubeflow
from pergola.pipelines.kubeflow.cluster import RUN_LABEL_KEY
from pergola.pipelines.kubeflow.connection import Connection
from pergola.pipelines.kubeflow.submit import RunLine, line

DONE = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
LOG_LINES = 15

# What Kubeflow adds around each step, by the names that its compiler gives them.
_PLUMBING = re.compile(
    r"(root|executor)(\(.*\))?|.*-driver|(exit-handler|condition|condition-branches|for-loop)-\d+"
    r"|iteration-(item|iterations)(\(.*\))?|.*\.onExit"
)
_TRIES = 5


@dataclass(frozen=True)
class Failure:
    """A step that failed."""

    step: str
    error: str  # the server's words
    log: str  # the last lines of its pod, empty when they are gone

    def words(self) -> str:
        """For a person."""
        tail = "".join(f"\n    {text}" for text in self.log.splitlines())
        missing = "" if self.log else "no reason given, and its log is gone"
        return f"{self.step} failed: {self.error or missing}".rstrip(": ") + tail


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: RunLine
    failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.run.state in ("SUCCEEDED", "SKIPPED")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.run.to_json(), "ok": self.ok, "failures": [vars(f) for f in self.failures]}


def wait(
    connection: Connection,
    run_id: str,
    *,
    say: Callable[[str], None] = lambda text: None,
    timeout_s: float = 24 * 3600,
    poll_s: float = 5.0,
    stall_s: float = 300.0,
) -> Outcome:
    """The outcome of a run, once it has one.

    say: gets a line when a step changes its state. An interrupted connection is tried five times,
    an expired token is read again from where it came from.  stall_s: without a change for so
    long, its pods are looked at. Raises StepError when the time is over (the run goes on) or a pod
    cannot start, InputError for an unknown run.
    """
    watch = _Watch(connection, run_id, say)
    deadline = time.monotonic() + timeout_s
    while True:
        run = watch.look(poll_s)
        if run.state in DONE:
            return Outcome(line(connection, run), tuple(_failures(watch.client, run)))
        watch.look_at_pods(run, stall_s)
        if time.monotonic() + poll_s > deadline:
            raise StepError(
                f"Run {run_id} is still {run.state} after {timeout_s:g} s; it goes on without us."
            )
        time.sleep(poll_s)


def raise_for(outcome: Outcome) -> None:
    """Raises StepError with the failing steps' own words when the run did not end well."""
    if outcome.ok:
        return
    why = "\n".join(f.words() for f in outcome.failures) or outcome.run.error or "no step says why"
    raise StepError(f"Run {outcome.run.id} ended {outcome.run.state}.\n{why}\n{outcome.run.link}".rstrip())


class _Watch:
    """Looks at one run again and again."""

    def __init__(self, connection: Connection, run_id: str, say: Callable[[str], None]) -> None:
        self.connection, self.run_id, self.say = connection, run_id, say
        self.where = connection.address() or "the cluster"
        self.client = kubeflow.connect(connection)
        self.states: dict[str, str] = {}
        self.renewed = False
        self.moved_at = time.monotonic()
        self.said = ""

    def look(self, pause_s: float) -> Any:
        """The run as it is now."""
        run = self._run(pause_s)
        for task in _steps(run):
            if task.state and self.states.get(task.task_id) != task.state:
                self.states[task.task_id] = task.state
                self.moved_at = time.monotonic()
                self.say(f"{task.display_name:<18}{task.state.lower()}")
        return run

    def look_at_pods(self, run: Any, stall_s: float) -> None:
        """Say why nothing moves: Kubeflow calls a pod pending for ever whose image does not exist.

        Raises StepError when a pod cannot start.
        """
        if time.monotonic() - self.moved_at < stall_s:
            return
        self.moved_at = time.monotonic()
        namespace = self.connection.namespace or self.connection.pipelines_namespace
        found = _pods(namespace, self.run_id)
        hopeless = [text for pod in found or () if (text := pods.trouble(pod, late=False))]
        if hopeless:
            raise StepError(
                f"Run {self.run_id} cannot go on: {hopeless[0]} It waits until the step's time limit: "
                f"end it in Kubeflow's pages, mend that, submit again."
            )
        waiting = [p for p in found or () if p.get("status", {}).get("phase") == "Pending"]
        text = next(filter(None, (pods.trouble(pod, late=True) for pod in waiting)), "")
        if found is None and any(task.state == "PENDING" for task in _tasks(run)):
            text = f"why pods wait: kubectl -n {namespace} get pods -l {RUN_LABEL_KEY}={self.run_id}"
        if text and text != self.said:
            self.said = text
            self.say(f"Nothing has moved for {stall_s:g} s; {text}")

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
    """The pods of a run; None where no cluster can be asked for them."""
    from pergola.k8s.rollout import Cluster, RolloutError

    try:
        selector = {RUN_LABEL_KEY: run_id}
        return list(Cluster.connect().items(f"/api/v1/namespaces/{namespace}/pods", selector))
    except RolloutError:
        return None


def _steps(run: Any) -> Iterable[Any]:
    """Tasks that are steps of ours, not Kubeflow's plumbing."""
    return [task for task in _tasks(run) if not _is_plumbing(task)]


def _tasks(run: Any) -> list[Any]:
    return list((run.run_details.task_details if run.run_details else None) or ())


def _is_plumbing(task: Any) -> bool:
    name = task.display_name or ""
    is_workflow = any((c.pod_name or "").startswith(f"{name}-") for c in task.child_tasks or ())
    return bool(_PLUMBING.fullmatch(name)) or is_workflow or name == task.run_id


def _failures(client: Any, run: Any) -> Iterable[Failure]:
    """A failure for each step. The server tells which tasks failed, seldom why, and no task's own pod."""
    failed = [task for task in _tasks(run) if task.state == "FAILED"]
    names = list(dict.fromkeys(name for task in failed if (name := _step_of(task))))
    for name in names:
        own = [task for task in failed if _step_of(task) == name]
        ids = {task.task_id for task in own} | {c.task_id for task in own for c in task.child_tasks or ()}
        inner = [t for t in failed if not _step_of(t) and (t.parent_task_id in ids or t.task_id in ids)]
        if len(names) == 1:  # then every pod that failed is its
            inner += [t for t in failed if (t.display_name or "").startswith("executor") and t not in inner]
        error = next(filter(None, (_error(task) for task in [*inner, *own, run])), "")
        yield Failure(name, error, next(filter(None, (_log(client, run.run_id, t) for t in own + inner)), ""))


def _step_of(task: Any) -> str:
    """Name of the step that a task is or prepares; empty for what runs inside of it or around it."""
    name = str(task.display_name or "")
    if name.endswith("-driver"):
        return name.removesuffix("-driver")
    return "" if _is_plumbing(task) else name


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
