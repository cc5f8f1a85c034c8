"""What has to be removed from a workspace, in the order in which it is.

Scans come last: they are the evidence that the rest holds an image, so a removal that was killed finds it
again when it is repeated.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.components.errors import PergolaError
from pergola.components.evaluation.drift import redaction, request_log
from pergola.components.release import provenance
from pergola.components.release.provenance import Provenance
from pergola.components.release.registry.connection import sqlite_path
from pergola.components.release.registry.registry import Registry
from pergola.components.release.registry.runs import RunReport
from pergola.components.workspace import Workspace
from pergola.pipelines.forget.evidence import Evidence
from pergola.pipelines.monitoring import feedback, lineage
from pergola.pipelines.monitoring.feedback import FeedbackStore


@dataclass(frozen=True)
class Removal:
    """One thing to remove."""

    kind: str
    place: str
    do: Callable[[], object]


def removals(workspace: Workspace, evidence: Evidence, logs: Iterable[str] = ()) -> Iterator[Removal]:
    """logs: prefixes of request logs outside of the workspace."""
    yield from _requests(workspace, evidence.ids, logs)
    yield from _feedback(workspace, evidence.ids)
    for page in sorted(workspace.root.glob("drift/*/*/index.html")):
        yield Removal("drift page", str(page), partial(page.unlink, missing_ok=True))
    yield from _reports(workspace, evidence)
    for folder in sorted((workspace.scratch / "unpacked").glob("*")):
        yield Removal("unpacked archive", str(folder), partial(_delete, folder))
    if evidence.manifests or evidence.versions:
        for folder in sorted(workspace.root.glob("state/*/workers-*")):
            yield Removal("workers' input", str(folder), partial(_delete, folder))
    for one in evidence.versions:
        place = workspace.version(one["model"], one["version"])
        if (place / GoldenRequests.FILE).is_file():
            yield Removal("golden requests", str(place), partial(provenance.remove_golden, place))
    yield from _outputs(workspace, evidence)


def _requests(workspace: Workspace, ids: Collection[str], logs: Iterable[str]) -> Iterator[Removal]:
    files = {path: None for path in sorted(workspace.requests.rglob("*.tfrecord"))}
    for prefix in logs:
        files |= dict.fromkeys(request_log.log_files(prefix))
    for path in files:
        if count := redaction.count_records(path, ids):
            text = f"{path}: {count} {'request' if count == 1 else 'requests'}"
            yield Removal("request log", text, partial(redaction.redact, path, ids))


def _feedback(workspace: Workspace, ids: Collection[str]) -> Iterator[Removal]:
    for folder in sorted((workspace.root / "feedback").glob("*")):
        store = FeedbackStore(workspace, folder.name, "")
        if feedback.holds(store, ids):
            yield Removal("feedback", str(folder), partial(feedback.remove, store, ids))


def _reports(workspace: Workspace, evidence: Evidence) -> Iterator[Removal]:
    """Reports of runs whose data set is not known to be without the images."""
    path = sqlite_path(workspace.tracking_uri)
    registry = Registry(workspace.tracking_uri) if path is None or path.is_file() else None
    logged = registry.runs.reports() if registry else []
    fingerprints = _fingerprints(workspace, logged)
    for page in sorted(workspace.runs.glob("*/report.html")):
        if fingerprints.get(page.parent.name) not in evidence.clean:
            yield Removal("report", str(page), partial(page.unlink, missing_ok=True))
    for one in logged:
        if registry and one.fingerprint not in evidence.clean:
            place = f"{workspace.tracking_uri}, run {one.mlflow_run}"
            yield Removal(
                "report in the registry", place, partial(registry.runs.remove_report, one.mlflow_run)
            )


def _fingerprints(workspace: Workspace, logged: Iterable[RunReport]) -> dict[str, str]:
    """Run -> fingerprint of its data set, of every run for which it is known."""
    found = {one.run: one.fingerprint for one in logged}
    for _, _, place in lineage.recorded_versions(workspace):
        if not (place / Manifest.FILE).is_file():
            continue
        found[Provenance.load(place).run] = Manifest.load(place).fingerprint
    for run in workspace.run_ids():
        if manifest := _manifest_of(workspace, run):
            found[run] = manifest.fingerprint
    return found


def _manifest_of(workspace: Workspace, run: str) -> Manifest | None:
    scan = workspace.run_record(run).get("steps", {}).get("scan", {}).get("key", "")
    try:
        return Manifest.load(workspace.steps / "scan" / scan) if scan else None
    except (OSError, ValueError, PergolaError):
        return None


def _outputs(workspace: Workspace, evidence: Evidence) -> Iterator[Removal]:
    """Outputs of steps, without those of runs on data sets without the images."""
    if evidence.in_manifest:
        kept = set()
        for run in workspace.run_ids():
            manifest = _manifest_of(workspace, run)
            if manifest and manifest.fingerprint in evidence.clean:
                steps = workspace.run_record(run)["steps"]
                kept |= {workspace.steps / name / output["key"] for name, output in steps.items()}
        for folder in sorted(workspace.steps.glob("*/*")):
            if folder.is_dir() and folder.parent.name != "scan" and folder.with_suffix("") not in kept:
                yield Removal("step output", str(folder), partial(_delete_output, folder))
    for folder in evidence.manifests:
        yield Removal("step output", str(folder), partial(_delete_output, folder))


def _delete_output(folder: Path) -> None:
    folder.with_suffix(".json").unlink(missing_ok=True)  # first: without it, no run uses what is left
    _delete(folder)


def _delete(folder: Path) -> None:
    shutil.rmtree(folder)
