"""`pergola lineage`: the origin of a version, and the versions that used an image.

Everything is read from the workspace: provenance (components/release/provenance.py), request log, drift
checks, feedback, published folders, and the registry for the champion.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import SPLITS, Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.training import Export, Training
from pergola.components.errors import InputError
from pergola.components.evaluation.drift import request_log
from pergola.components.evaluation.drift.feedback import Feedback, image_id, live_accuracy
from pergola.components.evaluation.drift.history import DriftHistory
from pergola.components.release import provenance
from pergola.components.release.provenance import Provenance
from pergola.components.workspace import Workspace

_ID = re.compile(r"[0-9a-f]{64}")


def is_image(text: str) -> bool:
    """Whether `text` is the path or the id of an image, and not a version."""
    return bool(_ID.fullmatch(text.lower())) or Path(text).is_file()


def provenance_folder(workspace: Workspace, text: str) -> Path:
    """The provenance of the version that `text` names: "leaves/3", or "3" if there is only one model.

    Raises InputError if there is none.
    """
    workspace.require()
    known = recorded_versions(workspace)
    name, _, number = text.rpartition("/")
    if not number.isdecimal():
        raise InputError(
            f"'{text}' is neither a version, such as 3 or leaves/3, nor the path or id of an image."
        )
    found = [place for model, version, place in known if version == int(number) and name in ("", model)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{model}/{version}" for model, version, _ in known) or "none"
    if found:
        raise InputError(
            f"Several models have a version {number}: {listed}. Give the model too: MODEL/{number}."
        )
    raise InputError(
        f"There is no record of version '{text}' in {workspace.root}. Versions with a lineage: {listed}."
    )


def of_version(workspace: Workspace, text: str) -> dict[str, Any]:
    """Origin, release and use of a version, as plain data."""
    place = provenance_folder(workspace, text)
    origin = Provenance.load(place)
    manifest, split = Manifest.load(place), Split.load(place)
    training, export = Training.load(place), Export.load(place)
    evaluation, decision = Evaluation.load(place), Decision.load(place)
    excluded = ValidationReport.load(place).quarantined
    return {
        "model": origin.model,
        "version": origin.version,
        "images": {
            "source": origin.source,
            "fingerprint": manifest.fingerprint,
            "files": manifest.num_rows,
            "excluded": len(excluded),
            "split_fingerprint": split.fingerprint,
            **{name: split.counts.get(name, 0) for name in SPLITS},
            "classes": len(manifest.labels),
        },
        "settings": str(place / provenance.SETTINGS),
        "code": origin.code,
        "run": {
            "id": origin.run,
            "command": origin.command,
            "reason": origin.reason,
            "released": _utc(origin.released_s),
        },
        "network": {
            "architecture": training.architecture,
            "parameters": training.num_parameters,
            "epochs": training.epochs,
            "seed": training.seed,
            "sha256": export.sha256,
        },
        "decision": {
            "outcome": decision.outcome,
            "accepted": decision.accepted,
            "rules": len(decision.rules),
            "champion": decision.champion,
            "accuracy": evaluation.accuracy,
            "test_images": evaluation.num_images,
        },
        "release": _release(workspace, origin, export.sha256),
        **_use(workspace, origin),
    }


def of_image(workspace: Workspace, text: str) -> dict[str, Any]:
    """Uses of an image: {"id", "versions": [{"model", "version", "files"}], "requests", "feedback"}.

    An image is identified by its bytes: a re-encoded copy is another image.
    """
    workspace.require()
    ids = image_ids(text)
    seen = []
    for model, version, place in recorded_versions(workspace):
        files = [row for id in ids for row in provenance.images(place, id)]
        if files:
            seen.append({"model": model, "version": version, "files": files})
    return {
        "id": ids[0],
        "versions": seen,
        "requests": _requests_of(workspace, ids),
        "feedback": _labels(workspace, ids),
    }


def image_ids(text: str) -> list[str]:
    """Ids of a file as it is and as the client sends it; or the id itself."""
    from pergola.serving.wire.images import prepare

    path = Path(text)
    if not path.is_file():
        return [text.lower()]
    data = path.read_bytes()
    try:
        sent = image_id(prepare(data))
    except ValueError:
        sent = image_id(data)
    return list(dict.fromkeys((image_id(data), sent)))


def recorded_versions(workspace: Workspace) -> list[tuple[str, int, Path]]:
    """Model, version and folder of everything with a provenance."""
    found = []
    for path in workspace.versions.glob(f"*/*/{Provenance.FILE}"):
        if path.parent.name.isdecimal():
            found.append((path.parent.parent.name, int(path.parent.name), path.parent))
    return sorted(found)


def _release(workspace: Workspace, origin: Provenance, sha256: str) -> dict[str, Any]:
    from pergola.components.release.champions import live_version
    from pergola.components.store.publish import published, sha256_of

    folder = workspace.models / origin.model / str(origin.version)
    there = origin.version in published(workspace.models, origin.model)
    return {
        "published": there,
        "unchanged": sha256_of(folder) == sha256 if there else None,
        "champion": live_version(workspace, origin.model) == origin.version,
    }


def _use(workspace: Workspace, origin: Provenance) -> dict[str, Any]:
    model, version = origin.model, origin.version
    span = request_log.span_of(_log(workspace, model), model=model, version=version)
    checks = DriftHistory.of(workspace.drift(model, version)).checks
    labelled = workspace.feedback(model)
    feedback = Feedback.load(labelled) if (labelled / Feedback.FILE).is_file() else Feedback()
    live = next((one for one in live_accuracy(feedback) if one.version == version), None)
    return {
        "requests": {
            "logged": span.count,
            "first": _utc(span.first_s) if span.count else None,
            "last": _utc(span.last_s) if span.count else None,
        },
        "drift": {
            "checks": len(checks),
            "drifted": sum(check.drifted for check in checks),
            "last": None
            if not checks
            else {"at": _utc(checks[-1].at_s), "reasons": list(checks[-1].reasons)},
        },
        "feedback": None
        if live is None
        else {"images": live.num_images, "accuracy": live.accuracy, "interval": list(live.interval)},
    }


def _log(workspace: Workspace, model: str) -> list[Path]:
    """Files of the workspace's request log; none if nothing was logged."""
    try:
        return request_log.log_files(workspace.request_log(model))
    except InputError:
        return []


def _requests_of(workspace: Workspace, ids: list[str]) -> list[dict[str, Any]]:
    """Number of requests with an image, per version."""
    found: dict[tuple[str, int], int] = {}
    for folder in sorted(workspace.requests.glob("*")):
        for one in request_log.read_log(_log(workspace, folder.name), model=folder.name):
            if image_id(one.image) in ids:
                key = (folder.name, one.version)
                found[key] = found.get(key, 0) + 1
    return [{"model": model, "version": version, "count": n} for (model, version), n in sorted(found.items())]


def _labels(workspace: Workspace, ids: list[str]) -> list[dict[str, str]]:
    """Labels of an image from feedback."""
    found = []
    for path in sorted((workspace.root / "feedback").glob(f"*/{Feedback.FILE}")):
        labels = Feedback.load(path.parent).labels()
        found += [{"model": path.parent.name, "label": labels[id]} for id in ids if id in labels]
    return found


def _utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
