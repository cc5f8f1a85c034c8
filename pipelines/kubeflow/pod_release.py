"""What follows the gate, as a pod runs it: report, registry, publication; and whether anything changed.

As in pipelines/kubeflow/pod_data.py: paths and plain values in, folders out, nothing of Kubeflow.
"""

from __future__ import annotations

import io
import os
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from pergola.components import code, digest, records, steps
from pergola.components.artifacts.data import Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.release import Confirmation, Publication, Registration
from pergola.components.artifacts.training import Export, Training
from pergola.components.evaluation import figures
from pergola.components.evaluation.drift.history import DriftHistory
from pergola.components.release.retrain import RetrainInputs, RetrainSettings, due, num_changed, rows_of
from pergola.pipelines.kubeflow.failures import noted
from pergola.pipelines.kubeflow.pod_model import Champion
from pergola.pipelines.kubeflow.pod_workspace import Workspace, made, settings_of

STORE_VARIABLE = "PERGOLA_STORE"
ACCEPTED, REJECTED = "accepted", "rejected"
CHANGED, UNCHANGED = "changed", "unchanged"


@dataclass(frozen=True)
class LastRun(Record):
    """What the last run of a model was made of, so that the next can see whether anything changed."""

    FILE = "last-run.json"

    fingerprint: str  # of the manifest
    settings: str  # SHA-256 of the settings
    decision: str
    version: int | None
    ended_s: int = 0  # seconds since 1970; 0: it was not noted
    ROWS: ClassVar[str] = "last-rows.npy"  # beside it: the images, see components/release/retrain.py


class _Folders:
    """Artifacts by name."""

    @classmethod
    def of(cls, **paths: str) -> Self:
        """From paths as Kubeflow gives them."""
        return cls(**{name: Path(path) for name, path in paths.items()})


@dataclass(frozen=True)
class Shown(_Folders):
    """What a report is about."""

    manifest: Path
    validation: Path
    split: Path
    shards: Path
    augmentation: Path
    training: Path
    export: Path
    evaluation: Path
    smoke_test: Path
    champion: Path
    decision: Path


@dataclass(frozen=True)
class Told(_Folders):
    """What the registry is told of. `report` is the page itself."""

    manifest: Path
    validation: Path
    split: Path
    training: Path
    export: Path
    evaluation: Path
    decision: Path
    report: Path


@noted
def report(folders: Shown, out: str, model: str, settings: str) -> Path:
    """All that a run found out -> one page.  settings: of the run, as TOML."""
    from pergola.components.evaluation.report.report import About, Parts

    rival = folders.champion if Champion.load(folders.champion).version else None
    parts = Parts(
        evaluation=folders.evaluation,
        gate=folders.decision,
        shards=folders.shards,
        validation=folders.validation,
        split=folders.split,
        augmentation=folders.augmentation,
        training=folders.training,
        export=folders.export,
        smoke_test=folders.smoke_test,
        champion=rival,
    )
    fingerprints = {
        "data": Manifest.load(folders.manifest).fingerprint,
        "split": Split.load(folders.split).fingerprint,
    }
    return steps.report(parts, About(model, "", settings, code.version(), fingerprints), made(out))


@noted
def register(
    folders: Told, out: str, *, model: str, settings: str, asked: str, dataset: str, workspace: str
) -> int | None:
    """Note the run in the registry; the version number of an accepted model, None of a rejected one.

    settings: with which it was made, as TOML.  asked: those that were given, which are others after a search.
    The run's key is its content: the same model with the same verdict takes no second number.
    """
    accepted = Decision.load(folders.decision).accepted
    training = Training.load(folders.training)
    manifest = Manifest.load(folders.manifest)
    sections = tomllib.loads(settings)
    tags = {
        "pergola.data_fingerprint": manifest.fingerprint,
        "pergola.code": code.version(),
        "pergola.decision": ACCEPTED if accepted else REJECTED,
        "pergola.architecture": training.architecture,
        "pergola.source": dataset,
    }
    files = (
        folders.report,
        folders.decision / Decision.FILE,
        folders.evaluation / Evaluation.FILE,
        folders.validation / ValidationReport.FILE,
    )
    sha256 = Export.load(folders.export).sha256
    key = digest.of_data([sha256, _verdict(folders.decision), settings])
    params = {
        f"{section}.{name}": value for section, part in sections.items() for name, value in part.items()
    }
    scores = figures.of(folders.evaluation)
    record = steps.RunRecord(f"kubeflow-{key[:20]}", model, params, scores, tags, files, training.history)
    place = Workspace(Path(workspace))
    registration = steps.register(
        folders.decision, folders.export, made(out), record=record, tracking_uri=place.tracking_uri()
    )
    if registration is not None:
        _keep_dossier(folders, Path(out), registration, record, settings, dataset, place)
    else:
        remember(folders.manifest, model, asked, workspace, version=None)
    return registration.version if registration else None


def _keep_dossier(
    folders: Told,
    out: Path,
    registration: Registration,
    record: steps.RunRecord,
    settings: str,
    dataset: str,
    place: Workspace,
) -> None:
    """Keep what a version was made of in the workspace."""
    from pergola.components.release import provenance

    origin = provenance.Provenance(
        model=registration.model,
        version=registration.version,
        run=record.key,
        source=dataset,
        code=record.tags["pergola.code"],
        command="",
        reason="",
        released_s=int(time.time()),
    )
    made = provenance.ProvenanceSources(
        manifest=folders.manifest,
        validation=folders.validation,
        split=folders.split,
        training=folders.training,
        export=folders.export,
        evaluation=folders.evaluation,
        decision=folders.decision,
        registration=out,
    )
    provenance.write(place.version(registration.model, registration.version), origin, settings, made)


def _verdict(decision: Path) -> dict[str, Any]:
    """What was decided and by which rules, without latencies, which no two smoke tests have in common."""
    found = Decision.load(decision)
    rules = [(rule.name, rule.passed, rule.message) for rule in found.rules if rule.unit != "ms"]
    return {"accepted": found.accepted, "champion": found.champion, "rules": rules}


@noted
def publish(registration: str, export: str, reference: str, out: str, workspace: str) -> Publication:
    """A registered SavedModel -> <workspace>/models/<model>/<N>/."""
    base = Workspace(Path(workspace)).models
    saved_model = Path(export) / "saved_model"
    return steps.publish(Path(registration), saved_model, Path(reference), made(out), base=base)


@noted
def confirm(
    publication: str,
    evaluation: str,
    out: str,
    gate: Mapping[str, Any],
    smoke_test: Mapping[str, Any],
    workspace: str,
) -> Confirmation:
    """A published version -> the champion, once a server of its own gave the golden answers with it."""
    from pergola.components.evaluation.gate.gate import GateSettings
    from pergola.components.release.smoke_test import SmokeTestServer, SmokeTestSettings

    published = Publication.load(Path(publication))
    place = Workspace(Path(workspace))
    with SmokeTestServer(settings_of(SmokeTestSettings, smoke_test, "smoke_test")) as smoke_test_server:
        client = smoke_test_server.serve(place.models, published.model, published.version)
        with client:
            return steps.confirm(
                Path(publication),
                Path(evaluation),
                made(out),
                client=client,
                base=place.models,
                tracking_uri=place.tracking_uri(),
                max_difference=settings_of(GateSettings, gate, "gate").max_difference,
            )


@noted
def deliver(
    confirmation: str, manifest: str, store: str, release: bool, settings: str, workspace: str
) -> str:
    """A confirmed version -> the model store that clusters serve from; a sentence on what was done.

    store: a folder or address, otherwise $PERGOLA_STORE; nothing is done without one.
    release: make it the stable version there, so that it gets all requests.  settings: as TOML.
    """
    confirmed = Confirmation.load(Path(confirmation))
    model, version = confirmed.model, confirmed.version
    done = _deliver(model, version, store or os.environ.get(STORE_VARIABLE, ""), release, workspace)
    remember(Path(manifest), model, settings, workspace, version=version)
    return done


def _deliver(model: str, version: int, where: str, release: bool, workspace: str) -> str:
    from pergola.components.store import release_record
    from pergola.components.store.model_store import open_store

    if not where:
        return f"Version {version} of {model} is in the workspace only: no model store is named."
    target = open_store(where)
    target.put(Workspace(Path(workspace)).models / model / str(version), model, version)
    if not release:
        return f"Version {version} of {model} is in {target.uri}; `pergola release` gives it requests."
    target.change(model, lambda record: release_record.make_stable(record, version))
    return f"Version {version} of {model} is in {target.uri} and stable."


def remember(manifest: Path, model: str, settings: str, workspace: str, *, version: int | None) -> None:
    """Note that a run came to its end, for `changes` to compare with. A run that broke is not noted."""
    decision = REJECTED if version is None else ACCEPTED
    fingerprint = Manifest.load(manifest).fingerprint
    ended_s = int(time.time())
    last = LastRun(fingerprint, digest.of_data(tomllib.loads(settings)), decision, version, ended_s)
    place = Workspace(Path(workspace)).state(model)
    rows = io.BytesIO()
    np.save(rows, rows_of(manifest))
    records.write_atomic(place / LastRun.ROWS, rows.getvalue())
    last.save(place)


@noted
def changes(
    manifest: str, model: str, settings: str, retrain: Mapping[str, Any], workspace: str
) -> tuple[str, str]:
    """Whether it is time for a run, "changed" or "unchanged", and why.  settings: as TOML."""
    wanted, place = settings_of(RetrainSettings, retrain, "retrain"), Workspace(Path(workspace))
    if not (place.state(model) / LastRun.FILE).is_file():
        return CHANGED, f"{model} has had no run in this workspace."
    last = LastRun.load(place.state(model))
    found = due(_facts(Path(manifest), model, settings, place, last), wanted)
    if found.fire:
        return CHANGED, found.reason
    number = f" as version {last.version}" if last.version else ""
    return UNCHANGED, f"{found.reason} The last run was {last.decision}{number}."


def _facts(manifest: Path, model: str, settings: str, place: Workspace, last: LastRun) -> RetrainInputs:
    found, rows = Manifest.load(manifest), place.state(model) / LastRun.ROWS
    changed = 0
    if last.fingerprint != found.fingerprint:
        changed = num_changed(np.load(rows), rows_of(manifest)) if rows.is_file() else found.num_rows
    ended = time.time() - last.ended_s if last.ended_s else None
    return RetrainInputs(
        num_changed=changed,
        settings_changed=last.settings != digest.of_data(tomllib.loads(settings)),
        drifted_looks=_drifted_looks(place, model, last.ended_s),
        age_days=None if ended is None else ended / 86_400,
        hours_since_run=None if ended is None else ended / 3600,
    )


def _drifted_looks(place: Workspace, model: str, ended_s: int) -> int:
    """DriftHistory in a row at the champion that found drift, unless a run came after them."""
    if not place.drift(model).is_dir():
        return 0
    from pergola.components.release.registry import champion_of

    champion = champion_of(place.tracking_uri(), model)
    looks = DriftHistory.of(place.drift(model) / str(champion.version)) if champion else DriftHistory()
    return looks.drifted if looks.looks and looks.looks[-1].at_s >= ended_s else 0
