"""Schedules on Kubeflow. Applying is idempotent: a schedule is recreated only when it changed.

Kubeflow has no update call: a changed schedule is created again (paused), the old one is deleted, then the
new one is enabled, so that a failure at any point leaves one that works, and applying again completes the
change. The description of a schedule holds a digest of what it was made from.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pergola.components import digest, records
from pergola.components.errors import InputError
from pergola.components.settings import check_model_name
from pergola.pipelines.kubeflow.client import connection as kubeflow
from pergola.pipelines.kubeflow.client import schedule_file, submit
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection
from pergola.pipelines.kubeflow.client.schedule_file import Schedule, ScheduleSet, firing_times, sent

_MARK = re.compile(r"pergola set=(?P<set>\S+) digest=(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Applied:
    """What was done with one schedule. `next`: the next three firing times, in its own zone."""

    name: str
    action: str  # "created", "recreated", "unchanged", "paused", "resumed", "deleted", "left over"
    id: str = ""
    cron: str = ""  # as sent
    enabled: bool = True
    next: tuple[str, ...] = ()

    def text(self) -> str:
        """As one line."""
        is_paused = not self.enabled and self.action not in ("paused", "deleted")
        when = "paused" if is_paused else "next " + ", ".join(self.next) if self.next else ""
        return f"{self.action:<11}{self.name:<28}{self.cron:<18}{when}".rstrip()


def apply(
    connection: KubeflowConnection, plan: ScheduleSet, *, prune: bool = False, now: datetime | None = None
) -> list[Applied]:
    """Make the cluster's schedules those of the set.

    prune: delete schedules of this set that are no longer in it; otherwise they are reported as "left over".
    Raises InputError, before anything is changed, when a name belongs to a schedule of another set, and for
    unknown experiments, pipelines and parameters.
    """
    now = now or datetime.now(UTC)
    client = kubeflow.connect(connection)
    with kubeflow.explain(connection.address() or "the cluster", "to change schedules"):
        present = _present(client, connection)
        _refuse_foreign(plan, present)
        with _prepared(client, connection, plan, now) as wanted:
            done = [_apply_one(client, item, present.get(item.schedule.name, []), now) for item in wanted]
        names = {schedule.name for schedule in plan.schedules}
        left = [run for runs in present.values() for run in runs
                if _mark(run).get("set") == plan.name and run.display_name not in names]  # fmt: skip
        return done + [_leave(client, run, prune) for run in left]


def list_schedules(connection: KubeflowConnection, *, now: datetime | None = None) -> list[dict[str, Any]]:
    """All recurring runs of the namespace: name, id, set (empty when not ours), cron, enabled."""
    client = kubeflow.connect(connection)
    with kubeflow.explain(connection.address() or "the cluster", "to list schedules"):
        return [
            {
                "name": run.display_name,
                "id": run.recurring_run_id,
                "set": _mark(run).get("set", ""),
                "cron": _cron_of(run),
                "enabled": _is_enabled(run),
                "experiment": run.experiment_id,
                "max_concurrency": int(run.max_concurrency or 1),
                "catch_up": not run.no_catchup,
                "description": run.description or "",
            }
            for runs in _present(client, connection).values()
            for run in runs
        ]


def delete(connection: KubeflowConnection, names: list[str]) -> list[Applied]:
    """Delete schedules by name or id. Raises InputError for an unknown one, before any is deleted."""
    return _each(connection, names, "delete_recurring_run", "deleted")


def pause(connection: KubeflowConnection, names: list[str]) -> list[Applied]:
    """Pause schedules until they are resumed or applied again."""
    return _each(connection, names, "disable_recurring_run", "paused")


def resume(connection: KubeflowConnection, names: list[str]) -> list[Applied]:
    """Resume paused schedules."""
    return _each(connection, names, "enable_recurring_run", "resumed")


def table(schedules: list[dict[str, Any]]) -> str:
    """The schedules as text, one line per schedule."""
    rows = [f"{'on' if s['enabled'] else 'paused':<8}{s['name']:<28}{s['cron']:<20}{s['set'] or '(not ours)'}"
            for s in schedules]  # fmt: skip
    return "\n".join(rows) or "No schedules."


@dataclass(frozen=True)
class _Recurring:
    """A schedule with everything that was looked up for it."""

    schedule: Schedule
    cron: str
    body: Mapping[str, Any]  # for create_recurring_run
    digest: str
    description: str


def _apply_one(client: Any, item: _Recurring, present: list[Any], now: datetime) -> Applied:
    schedule = item.schedule
    kept = next((run for run in present if _mark(run).get("digest") == item.digest), None)
    action = "unchanged" if kept else "recreated" if present else "created"
    if kept is None:
        kept = kubeflow.quietly(lambda: client.create_recurring_run(enabled=False, **item.body))
    for old in present:
        if old.recurring_run_id != kept.recurring_run_id:
            client.delete_recurring_run(old.recurring_run_id)
    if action == "unchanged" and _is_enabled(kept) != schedule.enabled:
        action = "resumed" if schedule.enabled else "paused"
    if action not in ("unchanged", "paused") and schedule.enabled:
        client.enable_recurring_run(kept.recurring_run_id)
    if action == "paused":
        client.disable_recurring_run(kept.recurring_run_id)
    times = firing_times(schedule, now)
    return Applied(schedule.name, action, kept.recurring_run_id, item.cron, schedule.enabled, times)


@contextmanager
def _prepared(
    client: Any, connection: KubeflowConnection, plan: ScheduleSet, now: datetime
) -> Iterator[list[_Recurring]]:
    """All schedules, looked up and checked before the first is changed. Keeps compiled files meanwhile."""
    with tempfile.TemporaryDirectory(prefix="pergola-") as scratch:
        yield [_wanted(client, connection, plan, schedule, Path(scratch), now) for schedule in plan.schedules]


def _wanted(
    client: Any,
    connection: KubeflowConnection,
    plan: ScheduleSet,
    schedule: Schedule,
    scratch: Path,
    now: datetime,
) -> _Recurring:
    source: dict[str, Any] = {}
    if schedule.uploaded:
        ids = kubeflow.pipeline_version(client, connection, schedule.uploaded, schedule.version or None)
        source = {"pipeline_id": ids[0], "version_id": ids[1]}
        spec = submit.pipeline_spec(client, *ids)
    else:
        package = _package(schedule, plan, scratch)
        source = {
            "pipeline_package_path": str(package),
            "enable_caching": None if schedule.caching else False,
        }
        spec = submit.read_spec(package)
    parameters = submit.checked(schedule.parameters, spec)
    if schedule.pipeline:
        check_model_name(parameters["model"])
    experiment = kubeflow.experiment_id(
        client, connection, schedule.experiment, create=schedule.experiment == submit.EXPERIMENT
    )
    text = sent(schedule, plan.cluster_time_zone, now).text
    plain = {**records.to_dict(schedule), "enabled": True, "cron_sent": text}
    made_of = {"schedule": plain, "parameters": parameters, "experiment": experiment, "spec": spec}
    sha256 = digest.of_data(made_of)
    description = f"{schedule.cron} {schedule.time_zone}. pergola set={plan.name} digest={sha256}"
    body = {
        "experiment_id": experiment,
        "job_name": schedule.name,
        "description": description,
        "cron_expression": text,
        "max_concurrency": schedule.max_concurrency,
        "no_catchup": not schedule.catch_up,
        "params": parameters,
        "service_account": schedule.service_account or None,
        "start_time": _rfc3339(schedule.start, "start"),
        "end_time": _rfc3339(schedule.end, "end"),
        **source,
    }
    return _Recurring(schedule, text, body, sha256, description)


def _package(schedule: Schedule, plan: ScheduleSet, scratch: Path) -> Path:
    if schedule.package:
        return plan.folder / schedule.package
    from pergola.components import settings as config
    from pergola.pipelines.kubeflow import compiled

    settings = config.load(plan.folder / schedule.config if schedule.config else None)
    out = scratch / f"{schedule.pipeline}.yaml"
    return compiled.compile_to(out, schedule.pipeline, settings=settings, cluster=plan.cluster)


def _present(client: Any, connection: KubeflowConnection) -> dict[str, list[Any]]:
    """Recurring runs by name."""
    found: dict[str, list[Any]] = {}
    namespace = connection.namespace or client.get_user_namespace() or ""
    listed = kubeflow.pages(client.list_recurring_runs, "recurring_runs", namespace=namespace)
    for run in listed:
        found.setdefault(run.display_name or "", []).append(run)
    return found


def _refuse_foreign(plan: ScheduleSet, present: Mapping[str, list[Any]]) -> None:
    for schedule in plan.schedules:
        for run in present.get(schedule.name, []):
            owner = _mark(run).get("set")
            if owner != plan.name:
                whose = f"belongs to the set '{owner}'" if owner else "was not made by pergola"
                raise InputError(
                    f"Schedule '{schedule.name}' exists and {whose}. Choose another name, or delete it with "
                    f"`pergola schedule delete {run.recurring_run_id}`."
                )


def _leave(client: Any, run: Any, prune: bool) -> Applied:
    if prune:
        client.delete_recurring_run(run.recurring_run_id)
    action = "deleted" if prune else "left over"
    return Applied(run.display_name, action, run.recurring_run_id, _cron_of(run), _is_enabled(run))


def _each(connection: KubeflowConnection, names: list[str], call: str, action: str) -> list[Applied]:
    client = kubeflow.connect(connection)
    with kubeflow.explain(connection.address() or "the cluster", "to change schedules"):
        present = _present(client, connection)
        runs = [run for runs in present.values() for run in runs]
        chosen = []
        for name in names:
            matching = [run for run in runs if name in (run.display_name, run.recurring_run_id)]
            if not matching:
                raise InputError(f"There is no schedule '{name}'.{records.nearest(name, present)}")
            chosen += matching
        for run in chosen:
            getattr(client, call)(run.recurring_run_id)
        enabled = {"paused": False, "deleted": False, "resumed": True}[action]
        return [Applied(r.display_name, action, r.recurring_run_id, _cron_of(r), enabled) for r in chosen]


def _mark(run: Any) -> dict[str, str]:
    found = _MARK.search(run.description or "")
    return found.groupdict() if found else {}


def _cron_of(run: Any) -> str:
    trigger = run.trigger
    if trigger and trigger.cron_schedule:
        return str(trigger.cron_schedule.cron)
    if trigger and trigger.periodic_schedule:
        return f"every {trigger.periodic_schedule.interval_second} s"
    return ""


def _is_enabled(run: Any) -> bool:
    return (run.status or run.mode) in ("ENABLED", "ENABLE")


def _rfc3339(text: str, where: str) -> str | None:
    time = schedule_file.moment(text, where)
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time else None
