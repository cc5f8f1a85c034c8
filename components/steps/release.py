"""From a decision to a version that answers: report, registry, publication, confirmation, delivery."""

from __future__ import annotations

import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pergola.components import code, digest, records
from pergola.components.artifacts.data import Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import ACCEPTED, Decision
from pergola.components.artifacts.evaluation import Evaluation, GoldenRequests
from pergola.components.artifacts.release import (
    Champion,
    Confirmation,
    Delivery,
    FinalTest,
    Publication,
    Registration,
)
from pergola.components.artifacts.training import Export, Training
from pergola.components.errors import StepError
from pergola.components.evaluation import figures
from pergola.components.release.registry.versions import FINGERPRINT, RUN_ID
from pergola.components.settings import to_toml
from pergola.components.steps.context import Context
from pergola.serving.wire.signature import is_signed

if TYPE_CHECKING:
    from pergola.components.release.champions import Champions


def report(
    context: Context,
    out: Path,
    manifest: Path,
    validation: Path,
    split: Path,
    shards: Path,
    augmentation: Path,
    training: Path,
    export: Path,
    evaluation: Path,
    smoke_test: Path,
    champion: Path,
    champion_evaluation: Path,
    decision: Path,
) -> Path:
    """All that a run found out -> one HTML page."""
    from pergola.components.evaluation.report.report import About, ReportInputs, write_report

    parts = ReportInputs(
        evaluation=evaluation,
        gate=decision,
        shards=shards,
        validation=validation,
        split=split,
        augmentation=augmentation,
        training=training,
        export=export,
        smoke_test=smoke_test,
        champion=champion_evaluation if Champion.load(champion).version else None,
    )
    fingerprints = {"data": Manifest.load(manifest).fingerprint, "split": Split.load(split).fingerprint}
    about = About(context.model, context.run.command, to_toml(context.settings), code.version(), fingerprints)
    return write_report(parts, about, out)


def register(
    context: Context,
    out: Path,
    manifest: Path,
    validation: Path,
    split: Path,
    training: Path,
    export: Path,
    evaluation: Path,
    decision: Path,
    report: Path,
    reference: Path | None = None,
) -> Registration | None:
    """Record the run in the registry, where an accepted or held model takes a version number, a rejected one
    none.

    The registry's key of a run is its content: the same model with the same decision takes no second number.
    """
    from pergola.components.release.registry.registry import Registry

    decided, exported = Decision.load(decision), Export.load(export)
    registry = Registry(context.workspace.tracking_uri)
    run = registry.runs.open(run_key(exported, decided, context), context.model, adopt=context.run.id)
    history = Training.load(training).history
    scores = {_in_registry(name): value for name, value in figures.of(evaluation).items()}
    files = (report / "report.html", decision / Decision.FILE, evaluation / Evaluation.FILE,
             validation / ValidationReport.FILE)  # fmt: skip
    tags = _tags(context, Manifest.load(manifest), Training.load(training), decided)
    registry.runs.log(run, params=_params(context), metrics=scores, tags=tags, files=files)
    registry.runs.log_epochs(run, history)
    registration = None
    if decided.registers:
        version = registry.register(context.model, run, export / "saved_model", sha256=exported.sha256)
        registration = Registration(context.model, version.version, run, exported.sha256)
        registration.save(out)
        made = {"manifest": manifest, "validation": validation, "split": split, "training": training,
                "export": export, "evaluation": evaluation, "decision": decision,
                "registration": out, "reference": reference}  # fmt: skip
        _keep_provenance(context, registration, made)
    if not decided.accepted:
        _remember(context, manifest, decided.outcome, registration.version if registration else None)
    registry.runs.finish(run)
    return registration


def is_registered(context: Context, out: Path) -> bool:
    """Whether what registration left outside of its folder is still there, undamaged."""
    from pergola.components.release import provenance
    from pergola.components.release.registry.lookup import version_of
    from pergola.components.release.registry.runs import has_run, is_intact

    if not (out / Registration.FILE).is_file():
        return True
    found = Registration.load(out)
    if not provenance.is_sound(context.workspace.version(found.model, found.version)):
        return False
    uri = context.workspace.tracking_uri
    version = version_of(uri, found.model, found.version)
    if version is None or version.sha256 != found.sha256 or not has_run(uri, found.mlflow_run):
        return False
    return is_intact(uri, version)


def publish(context: Context, out: Path, registration: Path, export: Path, reference: Path) -> Publication:
    """A registered SavedModel -> models/<model>/<version>/, with its drift reference."""
    from pergola.components.store.publish import publish as put

    registered = Registration.load(registration)
    key = context.settings.release.signing_key
    publication = put(export / "saved_model", context.workspace.models, registered.model, registered.version,
                      notes=reference, registered=registered.sha256,
                      signing_key=Path(key) if key else None)  # fmt: skip
    publication.save(out)
    return publication


def is_published(context: Context, out: Path) -> bool:
    """Whether the version's folder still has what was published. All its files are read."""
    from pergola.components.store.publish import damage_of

    found = Publication.load(out)
    return not damage_of(context.workspace.models / found.model / str(found.version), found.sha256)


def _is_there(context: Context, found: FinalTest | Confirmation) -> bool:
    """Whether a version has a folder: its content was compared by `is_published`."""
    return (context.workspace.models / found.model / str(found.version)).is_dir()


def final_test(context: Context, out: Path, publication: Path, evaluation: Path) -> FinalTest:
    """A published version -> whether a server gives its golden answers."""
    from pergola.components.release.confirm import try_published

    published = Publication.load(publication)
    client = context.client_of(published.model, published.version)
    test = try_published(client, GoldenRequests.load(evaluation), published, context.workspace.models,
                         max_difference=context.settings.gate.max_difference)  # fmt: skip
    test.save(out)
    return test


def has_passed(context: Context, out: Path) -> bool:
    """Whether a version passed its final test and is still published."""
    return not FinalTest.load(out).problem and _is_there(context, FinalTest.load(out))


def confirm(context: Context, out: Path, publication: Path, final_test: Path) -> Confirmation:
    """A version that passed its final test -> the champion; one that did not is withdrawn."""
    from pergola.components.release.champions import Champions, wait_until_served
    from pergola.components.release.confirm import promote_or_withdraw

    test, published, workspace = FinalTest.load(final_test), Publication.load(publication), context.workspace
    champions = Champions(workspace, _why(context))
    confirmation = promote_or_withdraw(test, published, workspace.models, champions)
    signed = is_signed(workspace.models / published.model / str(published.version))
    confirmation = replace(confirmation, signed=signed)
    try:
        wait_until_served(workspace, published.model, published.version)
    except StepError as error:
        replace_champion(champions, confirmation, str(error))
    confirmation.save(out)
    return confirmation


def replace_champion(champions: Champions, confirmation: Confirmation, problem: str) -> NoReturn:
    """Make the previous version the champion again.  Raises StepError with the problem of this one."""
    from pergola.components.store.release_record import make_stable, withdraw

    model, version, previous = confirmation.model, confirmation.version, confirmation.previous
    champions = replace(champions, why=problem)
    champions.change(model, lambda r: make_stable(r, previous) if previous else withdraw(r, version))
    now = f"Version {previous} is the champion again." if previous else "There is no champion."
    raise StepError(f"Version {version} of '{model}' passed its final test, but: {problem} {now}")


def is_confirmed(context: Context, out: Path) -> bool:
    """Whether the version that was confirmed is still published, and in the registry."""
    from pergola.components.release.registry.lookup import version_of

    found = Confirmation.load(out)
    version = version_of(context.workspace.tracking_uri, found.model, found.version)
    return version is not None and _is_there(context, found)


def deliver(context: Context, out: Path, confirmation: Path, manifest: Path) -> Delivery:
    """A confirmed version -> the model store that clusters serve from, if one is named."""
    confirmed = Confirmation.load(confirmation)
    delivery = Delivery(deliver_version(context, confirmed.model, confirmed.version))
    _remember(context, manifest, ACCEPTED, confirmed.version)
    delivery.save(out)
    return delivery


def run_key(export: Export, decision: Decision, context: Context) -> str:
    """What the registry finds a run by again. Latencies are left out: no two smoke tests have them in
    common."""
    rules = [(rule.name, rule.passed, rule.message) for rule in decision.rules if rule.unit != "ms"]
    verdict = {"accepted": decision.registers, "champion": decision.champion, "rules": rules}
    return "run-" + digest.of_data([context.model, export.sha256, verdict, to_toml(context.settings)])[:20]


def _tags(context: Context, manifest: Manifest, training: Training, decision: Decision) -> dict[str, str]:
    return {
        RUN_ID: context.run.id,
        FINGERPRINT: manifest.fingerprint,
        "pergola.code": code.version(),
        "pergola.decision": decision.outcome,
        "pergola.architecture": training.architecture,
        "pergola.source": str(context.dataset),
    }


def _params(context: Context) -> dict[str, Any]:
    settings = records.to_dict(context.settings)
    return {f"{section}.{key}": value for section, part in settings.items() for key, value in part.items()}


def _in_registry(name: str) -> str:
    """Epochs have an "accuracy" there as well, which is on the training split."""
    return name if name.startswith("train_") else f"test_{name}"


def _keep_provenance(context: Context, registration: Registration, made: dict[str, Any]) -> None:
    from pergola.components.release import provenance

    origin = provenance.Provenance(
        model=registration.model,
        version=registration.version,
        run=context.run.id,
        source=str(context.dataset),
        code=code.version(),
        command=context.run.command,
        reason=context.run.reason,
        released_s=int(time.time()),
    )
    place = context.workspace.version(registration.model, registration.version)
    provenance.write(place, origin, to_toml(context.settings), provenance.ProvenanceSources(**made))


def deliver_version(context: Context, model: str, version: int) -> str:
    """Put a confirmed version into the model store, if one is named. Gives what became of it."""
    from pergola.components.store import release_record
    from pergola.components.store.model_store import open_store

    if not context.store:
        return f"Version {version} of {model} is in the workspace only: no model store is named."
    target = open_store(context.store)
    target.put(context.workspace.models / model / str(version), model, version)
    if not context.make_stable:
        return f"Version {version} of {model} is in {target.uri}; `pergola release` gives it requests."
    target.change(model, lambda record: release_record.make_stable(record, version), why=_why(context))
    return f"Version {version} of {model} is in {target.uri} and stable."


def _why(context: Context) -> str:
    """Why a version is released, for the history of the release record."""
    run = context.run
    return "; ".join(text for text in (run.reason, run.command or f"run {run.id}") if text)


def _remember(context: Context, manifest: Path, outcome: str, version: int | None) -> None:
    """Note for the next run on a cluster what this one was made of; a laptop keeps records of runs
    instead."""
    from pergola.components.release.last_run import remember

    if context.store is None:
        return
    asked = context.asked_settings or to_toml(context.settings)
    remember(context.workspace.state(context.model), manifest, tomllib.loads(asked), outcome, version)
