"""`pergola drift`: do the requests to a version still resemble its test split?

Each check covers the requests since the last one. History, report and page are in <workspace>/drift/.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components import records
from pergola.components.errors import InputError
from pergola.components.evaluation.drift import request_log
from pergola.components.evaluation.drift.drift import ClassShift, DriftReport, DriftSettings, DriftTest
from pergola.components.evaluation.drift.drift import drift as test_for_drift
from pergola.components.evaluation.drift.history import DriftHistory
from pergola.components.evaluation.drift.reference import DriftReference, Sample
from pergola.components.workspace import Workspace
from pergola.pipelines.local.progress import Display
from pergola.pipelines.release.resolve import PublishedVersion, resolve_version

if TYPE_CHECKING:
    from pergola.components.evaluation.drift.page import Unusual
    from pergola.components.imaging.embeddings import Embed

DRIFT_STATUS = 3


@dataclass(frozen=True)
class DriftResult:
    """The outcome of a drift check."""

    model: str
    version: int
    drifted: bool
    reasons: tuple[str, ...]
    look: int  # number of the check, from 1
    num_reference: int
    num_live: int
    since: str  # time of the first request, UTC
    until: str  # time of the last one
    alpha: float
    tests: tuple[DriftTest, ...]
    classes: tuple[ClassShift, ...]
    page: str

    @property
    def status(self) -> int:
        """Exit status of the command."""
        return DRIFT_STATUS if self.drifted else 0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return records.to_dict(self)

    def summary(self) -> str:
        """The verdict, then one line per test."""
        verdict = "DRIFT" if self.drifted else "No drift"
        lines = [
            f"{verdict}: {self.model} version {self.version}, {self.num_live:,} requests "
            f"({self.since} to {self.until}) compared with {self.num_reference:,} test images, "
            f"check {self.look}."
        ]
        for test in sorted(self.tests, key=lambda test: (not test.drifted, test.adjusted_p)):
            lines.append(f"  {'drift' if test.drifted else 'ok':<7}{test.message}")
        if self.drifted:
            lines.append(
                "To see whether accuracy has dropped, label some requests: pergola feedback --sample FOLDER"
            )
        return "\n".join([*lines, f"Page: {self.page}"])


@dataclass(frozen=True)
class _RequestWindow:
    """The requests that a check covers."""

    files: list[Path]
    span: request_log.Span
    since_s: int
    skipped: int  # older requests, beyond the last `max_requests`

    def filters(self, version: PublishedVersion) -> dict[str, Any]:
        """Arguments with which request_log finds them."""
        return {"model": version.model, "version": version.version, "since_s": self.since_s}


def drift(
    workspace: Workspace,
    target: str | None,
    settings: DriftSettings,
    *,
    log: str | None = None,
    show: Display,
) -> DriftResult:
    """Check the requests since the last check.

    target: see pipelines/release/resolve.py.  log: prefix of the log's files; default: the workspace's own.
    Raises InputError if there is no log, no reference, or too few requests; that does not count as a check.
    """
    version = resolve_version(workspace, target)
    reference = _reference(version)
    place = workspace.drift(version.model, version.version)
    with workspace.lock("a drift check", "drift.lock"):
        history = DriftHistory.of(place)
        requests = _requests(workspace, version, history, settings, log)
        place.mkdir(parents=True, exist_ok=True)
        with _embedding(version, reference, settings, place) as embed:
            live = request_log.sample_log(
                requests.files,
                embed,
                **requests.filters(version),
                count=requests.span.count,
                max_requests=settings.max_requests,
                max_embedded=settings.max_embedded,
                seed=settings.seed,
                progress=show.progress,
            )
        report = test_for_drift(_notes(version), live, settings, look=history.number)
        page = _write_page(version, report, live, requests, place)
        report.save(place)
        history.after(
            report, at_s=int(time.time()), since_s=requests.span.first_s, until_s=requests.span.last_s
        ).save(place)
    return _result(version, report, requests.span.first_s, requests.span.last_s, page)


def last_check(workspace: Workspace, target: str | None) -> DriftResult:
    """The result of the last check. Raises InputError if there was none."""
    version = resolve_version(workspace, target)
    place = workspace.drift(version.model, version.version)
    checks = DriftHistory.of(place).checks
    if not checks:
        raise InputError(f"There has been no drift check of {version} yet. Run one: leave out --last.")
    from pergola.components.evaluation.drift.page import FILE

    return _result(version, DriftReport.load(place), checks[-1].since_s, checks[-1].until_s, place / FILE)


def _notes(version: PublishedVersion) -> Path:
    from pergola.components.store.publish import notes_of

    return notes_of(version.folder)


def _reference(version: PublishedVersion) -> DriftReference:
    if not (_notes(version) / DriftReference.FILE).is_file():
        raise InputError(
            f"There is no drift reference in {version.folder}: {version} was published without one. Publish "
            "a version that has one: pergola run DATASET --force gate"
        )
    return DriftReference.load(_notes(version))


def _requests(
    workspace: Workspace,
    version: PublishedVersion,
    history: DriftHistory,
    settings: DriftSettings,
    log: str | None,
) -> _RequestWindow:
    files = request_log.log_files(log or workspace.request_log(version.model))
    since_s = history.since_s
    span = request_log.span_of(files, model=version.model, version=version.version, since_s=since_s)
    if span.count < settings.min_requests:
        when = f" since the last check, {_utc(since_s - 1)}" if history.checks else ""
        raise InputError(
            f"The log has {span.count} requests to {version}{when}; at least {settings.min_requests} are "
            "needed (drift.min_requests). Wait for more"
            + (", or show the last check with --last." if history.checks else ".")
        )
    return _RequestWindow(files, span, since_s, max(0, span.count - settings.max_requests))


@contextmanager
def _embedding(
    version: PublishedVersion, reference: DriftReference, settings: DriftSettings, place: Path
) -> Iterator[Embed | None]:
    """The version's own embedding, if needed. Loads TensorFlow, whose messages go to a file."""
    if not reference.width or not settings.max_embedded:
        yield None
        return
    from pergola.components.evaluation.loaded_model import LoadedModel
    from pergola.pipelines.local.native import stderr_to

    with stderr_to(place / "native.log"), LoadedModel(version.folder) as model:
        yield model.embeddings


def _write_page(
    version: PublishedVersion, report: DriftReport, live: Sample, requests: _RequestWindow, place: Path
) -> Path:
    from pergola.components.evaluation.drift.page import Title, write_page

    span = f"{_utc(requests.span.first_s)} to {_utc(requests.span.last_s)}"
    title = Title(version.model, version.version, span)
    sample, record = DriftReference.sample(_notes(version)), DriftReference.load(_notes(version))
    return write_page(title, report, sample, live, _unusual(version, report, requests, record.labels), place)


def _unusual(
    version: PublishedVersion, report: DriftReport, requests: _RequestWindow, labels: Sequence[str]
) -> list[Unusual]:
    """The requests that the report lists, most unusual first."""
    from pergola.components.evaluation.drift.page import Unusual

    rows = [row + requests.skipped for row in report.unlike]
    found: Mapping[int, request_log.Logged] = {}
    if rows:
        found = request_log.images_at(requests.files, rows, **requests.filters(version))
    logged = [found[row] for row in rows if row in found]
    return [
        Unusual(
            one.image, labels[int(one.probabilities.argmax())], float(one.probabilities.max()), _utc(one.at_s)
        )
        for one in logged
    ]


def _result(
    version: PublishedVersion, report: DriftReport, since_s: int, until_s: int, page: Path
) -> DriftResult:
    return DriftResult(
        model=version.model,
        version=version.version,
        drifted=report.drifted,
        reasons=report.reasons,
        look=report.look,
        num_reference=report.num_reference,
        num_live=report.num_live,
        since=_utc(since_s),
        until=_utc(until_s),
        alpha=report.alpha,
        tests=report.tests,
        classes=report.classes,
        page=str(page),
    )


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
