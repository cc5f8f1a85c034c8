"""The steps of the walk from a model to a version that is served: what goes in, what comes out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pergola.components import digest, records, steps
from pergola.components.artifacts.release import Publication, Registration
from pergola.components.release.versions import RegisteredVersion
from pergola.pipelines.local import reporting
from pergola.pipelines.local.reuse import Output
from pergola.pipelines.local.walk import Data, Model, Verdict, Walk


def smoke_test(walk: Walk, model: Model) -> Output:
    """A SavedModel -> what a real server answered with it."""
    return walk.steps.run(
        "smoke_test",
        lambda out: steps.smoke_test(walk.smoke_test_server, model.saved_model, model.evaluation.folder, out,
                                   timing=walk.run.folder / "smoke-test-latency.json"),
        inputs={"export": model.export.sha256, "evaluation": model.evaluation.sha256},
        settings=walk.settings.smoke_test,
    )  # fmt: skip


def gate(
    walk: Walk, model: Model, smoke_test: Output, champion: RegisteredVersion | None, rival: Output | None
) -> Output:
    """Scores and smoke test -> may it ship."""
    settings = walk.settings.gate
    version = champion.version if champion else None
    return walk.steps.run(
        "gate",
        lambda out: steps.gate(model.evaluation.folder, rival.folder if rival else None, smoke_test.folder,
                               out, settings, champion_version=version),
        inputs={"evaluation": model.evaluation.sha256, "smoke_test": smoke_test.sha256,
                "champion": rival.sha256 if rival else None, "version": str(version)},
        settings=settings,
    )  # fmt: skip


def report(walk: Walk, data: Data, model: Model, verdict: Verdict) -> Output:
    """All that the run found out -> one page."""
    return walk.steps.run(
        "report",
        lambda out: steps.report(*reporting.report_input(walk, data, model, verdict), out),
        inputs={
            "gate": verdict.gate.sha256,
            "validation": data.validation.sha256,
            "training": model.training.sha256,
            "evaluation": model.evaluation.sha256,
            "augmentation": model.augmentation.sha256,
            "settings": digest.of_data(records.to_dict(walk.settings)),
        },
    )


def reference(walk: Walk, data: Data, model: Model) -> Output:
    """An accepted SavedModel -> what requests will be held against, to notice drift."""
    return walk.steps.run(
        "reference",
        lambda out: steps.reference(model.saved_model, data.shards.folder, model.evaluation.folder, out,
                                    progress=walk.show.progress),
        inputs={"export": model.export.sha256, "shards": data.shards.sha256,
                "evaluation": model.evaluation.sha256},
    )  # fmt: skip


def register(walk: Walk, data: Data, model: Model, verdict: Verdict, report: Output) -> Output:
    """Note the run in the registry; an accepted model takes its version number there."""
    return walk.steps.run(
        "register",
        lambda out: steps.register(verdict.gate.folder, model.export.folder, out,
                                   record=reporting.run_record(walk, data, model, verdict, report),
                                   tracking_uri=walk.workspace.tracking_uri),
        inputs={"export": model.export.sha256, "gate": verdict.gate.sha256, "report": report.sha256,
                "model": walk.model},
    )  # fmt: skip


def publish(walk: Walk, model: Model, registration: Output, reference: Output) -> Output:
    """A registered SavedModel -> the folder that servers watch."""
    base = walk.workspace.models
    registered = Registration.load(registration.folder)
    return walk.steps.run(
        "publish",
        lambda out: steps.publish(registration.folder, model.saved_model, reference.folder, out, base=base),
        inputs={"registration": registration.sha256, "reference": reference.sha256},
        still=lambda: (base / registered.model / str(registered.version)).is_dir(),
    )


def confirm(walk: Walk, model: Model, publication: Output) -> Output:
    """A published version -> the champion, once a server gave the golden answers with it."""
    return walk.steps.run(
        "confirm",
        partial(_confirm, walk, model, publication),
        inputs={"publication": publication.sha256, "evaluation": model.evaluation.sha256},
        still=lambda: publication.reused,
    )


def _confirm(walk: Walk, model: Model, publication: Output, out: Path) -> None:
    """Ask the server that people use, if it runs; else the smoke test's, on the published folder."""
    from pergola.serving.client.client import Client

    published = Publication.load(publication.folder)
    base, server = walk.workspace.models, walk.workspace.server()
    client = (
        Client(server["grpc"], model=published.model)
        if server
        else walk.smoke_test_server.serve(base, published.model, published.version)
    )
    with client:
        steps.confirm(publication.folder, model.evaluation.folder, out, client=client, base=base,
                      tracking_uri=walk.workspace.tracking_uri,
                      max_difference=walk.settings.gate.max_difference)  # fmt: skip
