"""The data steps of the walk: what goes in, what they depend on, what comes out."""

from __future__ import annotations

from pathlib import Path

from pergola.components import digest, records, steps
from pergola.components.artifacts.data import CRITICAL, Shards, Split, ValidationReport
from pergola.components.data.manifest.relabel import RELABEL_FILE
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from pergola.components.stats.costs import read_costs
from pergola.components.training.models.architectures import ModelSettings
from pergola.pipelines.local.reuse import Output
from pergola.pipelines.local.walk import Walk


def scan(walk: Walk) -> Output:
    """Images -> manifest."""
    settings, scratch = walk.settings.scan, walk.workspace.scratch
    source = open_source(walk.dataset, settings, scratch)
    listing = ((e.path, e.label, e.given_split, *e.stamp) for e in source.entries())
    return walk.steps.run(
        "scan",
        lambda out: steps.scan(walk.dataset, out, settings, scratch=scratch, progress=walk.show.progress),
        inputs={
            "listing": digest.of_rows(listing),
            "kind": source.kind,
            "relabel": digest.of_named_file(settings.relabel),
        },
        settings=settings,
    )


def validate(walk: Walk, manifest: Output) -> Output:
    """Manifest and images -> findings."""
    settings, of_file = walk.settings, digest.of_named_file
    return walk.steps.run(
        "validate",
        lambda out: steps.validate(walk.dataset, manifest.folder, out, settings.validate,
                                   scan=settings.scan, scratch=walk.workspace.scratch,
                                   architecture=settings.model.architecture, weights=settings.model.weights,
                                   progress=walk.show.progress),
        inputs={"manifest": manifest.sha256, "expectations": of_file(settings.validate.expectations),
                "relabel": of_file(settings.scan.relabel), "network": _pretrained(settings.model)},
        settings=settings.validate,
    )  # fmt: skip


def stop_if_critical(validation: Output) -> None:
    """Raises InputError when the images cannot be trained on."""
    report = ValidationReport.load(validation.folder)
    if not report.ok:
        critical = [f.message for f in report.findings if f.severity == CRITICAL]
        raise InputError(
            f"The data cannot be used: {' '.join(critical)} See {validation.folder / 'index.html'}"
        )


def split(walk: Walk, manifest: Output, validation: Output) -> Output:
    """Manifest and findings -> which image is in which part."""
    settings = walk.settings.split
    return walk.steps.run(
        "split",
        lambda out: steps.split(
            manifest.folder, validation.folder, out, settings, previous=_last_split(walk)
        ),
        inputs={"manifest": manifest.sha256, "validation": validation.sha256},
        settings=settings,
    )


def shards(walk: Walk, manifest: Output, split: Output) -> Output:
    """Images -> TFRecord shards. Raises InputError when settings name a class that is not there."""
    settings = walk.settings
    output = walk.steps.run(
        "shards",
        lambda out: steps.shards(walk.dataset, manifest.folder, split.folder, out, settings.shards,
                                 scan=settings.scan, scratch=walk.workspace.scratch,
                                 progress=walk.show.progress),
        inputs={"split": split.sha256},
        settings=settings.shards,
    )  # fmt: skip
    if settings.export.costs:
        read_costs(settings.export.costs, Shards.load(output.folder).labels)
    return output


def keep_relabel(walk: Walk) -> None:
    """Put the ranked list of suspicious labels, if there is one, where a person finds it: in the run."""
    found = walk.steps.done.get("validate")
    if found and (ranked := found.folder / RELABEL_FILE).is_file():
        records.write_atomic(walk.run.folder / RELABEL_FILE, ranked.read_bytes())


def _pretrained(model: ModelSettings) -> str | None:
    """Of what images are compared by; None when the model has no pretrained weights."""
    named = [model.architecture, model.weights, digest.of_named_file(model.weights)]
    return digest.of_data(named) if model.weights else None


def _last_split(walk: Walk) -> Path | None:
    """The split of the last run on the same data with the same settings of the split, or of walk.like."""
    if walk.like:
        return walk.like.place
    wanted = records.to_dict(walk.settings.split)
    for run in reversed(walk.workspace.run_ids()):
        record = walk.workspace.run_record(run)
        if record.get("like"):
            continue
        if record["source"] == str(walk.dataset) and record["settings"]["split"] == wanted:
            folder = walk.workspace.steps / "split" / record["steps"].get("split", {}).get("key", "absent")
            if (folder / Split.FILE).is_file():
                return folder
    return None
