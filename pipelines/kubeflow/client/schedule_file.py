"""A file of schedules, checked before anything is sent.

name = "leaves"                      # of this set of schedules; default: the file's name
cluster_time_zone = "UTC"            # cronScheduleTimezone of the cluster's pipeline-install-config

[[schedule]]
name = "leaves-nightly"
pipeline = "retraining"              # or "training"; or package = "FILE.yaml"; or uploaded = "NAME"
cron = "0 3 * * 1-5"                 # five fields as in crontab, or six with seconds first
time_zone = "Europe/Berlin"
experiment = "pergola"
[schedule.parameters]
dataset = "/data/leaves"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.errors import InputError
from pergola.pipelines.kubeflow.client import cron, submit
from pergola.pipelines.kubeflow.cluster import ClusterSettings

OURS = ("training", "retraining")  # pipelines that are compiled when a schedule is applied


@dataclass(frozen=True)
class Schedule:
    """One schedule of a file."""

    name: str
    cron: str = records.setting("", "five fields as in crontab(5), or six with seconds first")
    pipeline: str = records.setting("", "training or retraining, compiled when applied", choices=("", *OURS))
    config: str = records.setting("", "settings of that pipeline, TOML, relative to this file")
    package: str = records.setting("", "a compiled pipeline, relative to this file")
    uploaded: str = records.setting("", "name of an uploaded pipeline")
    version: str = records.setting("", "of the uploaded pipeline; empty: the newest when applied")
    time_zone: str = records.setting("UTC", "of the cron")
    experiment: str = records.setting(submit.EXPERIMENT, "of its runs")
    enabled: bool = records.setting(True, "false: paused")
    catch_up: bool = records.setting(False, "run what was missed while paused")
    max_concurrency: int = records.setting(1, "runs at the same time", low=1, high=10)
    service_account: str = records.setting("", "of the pods; empty: the cluster's default")
    caching: bool = records.setting(True, "reuse the outputs of steps whose inputs did not change")
    start: str = records.setting("", "no run before this time, such as 2026-12-01T00:00:00Z")
    end: str = records.setting("", "no run after this time")
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleSet:
    """The schedules of a file."""

    name: str
    cluster_time_zone: str
    schedules: tuple[Schedule, ...]
    folder: Path  # against which packages and configs are resolved
    cluster: ClusterSettings


def load(file: Path) -> ScheduleSet:
    """Read a file of schedules.

    Raises InputError for a missing or invalid file, unknown keys, a cron that Kubeflow would refuse or that
    never fires, an unknown time zone, and two schedules with the same name.
    """
    data = _read(file)
    name, zone = data.pop("name", file.stem), data.pop("cluster_time_zone", "UTC")
    tables = data.pop("schedule", None)
    pods = records.from_dict(ClusterSettings, data.pop("cluster", {}), f"{file}: [cluster]")
    if data:
        known = records.nearest(next(iter(data)), ("name", "cluster_time_zone", "cluster", "schedule"))
        raise InputError(f"{file}: unknown key '{next(iter(data))}'.{known}")
    if not isinstance(tables, list) or not tables:
        raise InputError(f"{file} has no [[schedule]]. Start with name, pipeline and cron.")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"{file}: name may have letters, digits, '-', '_' and '.' only, got {name!r}.")
    schedules = tuple(records.from_dict(Schedule, t, f"{file}: [[schedule]]") for t in tables)
    cluster = cron.zone(zone, f"{file}: cluster_time_zone")
    for number, schedule in enumerate(schedules):
        _check(schedule, file)
        if schedule.name in [other.name for other in schedules[:number]]:
            raise InputError(f"{file} has two schedules named '{schedule.name}'. Rename one.")
        sent(schedule, cluster.key, datetime.now(UTC))
    return ScheduleSet(name, cluster.key, schedules, file.absolute().parent, pods)


def sent(schedule: Schedule, cluster_time_zone: str, now: datetime) -> cron.Cron:
    """The cron to send: six fields, in the time zone of the cluster's scheduler."""
    parsed = cron.parse(schedule.cron)
    source = cron.zone(schedule.time_zone, f"[[schedule]] {schedule.name}: time_zone")
    return cron.translate(parsed, source, cron.zone(cluster_time_zone, "cluster_time_zone"), now)


def firing_times(schedule: Schedule, now: datetime, count: int = 3) -> tuple[str, ...]:
    """The next firing times in the schedule's own zone, as ISO 8601."""
    zone = cron.zone(schedule.time_zone, "time_zone")
    first, last = moment(schedule.start, "start"), moment(schedule.end, "end")
    begin = first if first and first > now else now
    times = cron.next_times(cron.parse(schedule.cron), begin, zone, count)
    return tuple(t.isoformat() for t in times if last is None or t <= last)


def moment(text: str, where: str) -> datetime | None:
    """A time from ISO 8601, in UTC unless it has an offset; None for an empty text. Raises InputError."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{where}: '{text}' is not a time. Expected one such as 2026-12-01T00:00:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check(schedule: Schedule, file: Path) -> None:
    where = f"{file}: schedule '{schedule.name}'"
    if not schedule.name or len(schedule.name) > 120:
        raise InputError(f"{where}: the name must have 1 to 120 characters.")
    if not schedule.cron:
        raise InputError(f"{where}: key 'cron' is missing. Example: cron = \"0 3 * * 1-5\".")
    sources = [key for key in ("pipeline", "package", "uploaded") if getattr(schedule, key)]
    if len(sources) != 1:
        got = " and ".join(sources) or "none"
        raise InputError(f"{where}: give exactly one of pipeline, package and uploaded, got {got}.")
    if schedule.config and not schedule.pipeline:
        raise InputError(f"{where}: config applies to pipeline only; the others are compiled already.")
    if schedule.version and not schedule.uploaded:
        raise InputError(f"{where}: version applies to uploaded only.")
    start, end = (moment(getattr(schedule, key), f"{where}: {key}") for key in ("start", "end"))
    if start and end and start >= end:
        raise InputError(f"{where}: end {schedule.end} is not after start {schedule.start}.")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"Schedule file {file} does not exist.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"Schedule file {file} cannot be read as TOML: {error}.") from None
