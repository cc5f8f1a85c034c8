"""The data steps: from a data source to shards."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pergola.components import digest, records
from pergola.components.artifacts.data import (
    CRITICAL,
    Manifest,
    Shards,
    SourceFindings,
    Split,
    ValidationReport,
)
from pergola.components.errors import InputError
from pergola.components.steps.context import Context


def listing(context: Context) -> str:
    """SHA-256 over names, sizes and times of the images: by which a scan is reused."""
    from pergola.components.data.sources.source import open_source

    settings = context.settings.scan
    source = open_source(context.dataset, settings, context.workspace.scratch)
    rows = digest.of_rows((e.path, e.label, e.given_split, *e.stamp) for e in source.entries())
    said = records.to_dict(SourceFindings(source.findings)) if source.findings else None
    return digest.of_data(
        [rows, source.kind, digest.of_named_file(settings.relabel), *([said] if said else [])]
    )


def scan(context: Context, out: Path) -> Manifest:
    """Data source -> manifest."""
    from pergola.components.data.manifest.scan import scan as scan_source
    from pergola.components.data.sources.source import open_source

    settings = context.settings.scan
    source = open_source(context.dataset, settings, context.workspace.scratch)
    return scan_source(source, out, settings, progress=context.progress)


def scan_part(context: Context, out: Path, index: int, count: int) -> None:
    """Every `count`-th image from the `index`-th on -> a part of the manifest."""
    from pergola.components.data.partitions import scan_partition
    from pergola.components.data.sources.source import open_source

    settings = context.settings.scan
    source = open_source(context.dataset, settings, context.workspace.scratch)
    scan_partition(source, out, settings, index, count)


def merge_scans(context: Context, out: Path, parts: Sequence[Path]) -> Manifest:
    """All parts -> the manifest that one scan of everything makes."""
    from pergola.components.data.partitions import merge_scans as merge

    return merge(parts, out)


def content_network(context: Context) -> str:
    """What the checks compare images by, and the corrections that they leave alone: both are files."""
    model, corrections = context.settings.model, digest.of_named_file(context.settings.scan.relabel)
    network = (
        [model.architecture, digest.of_named_file(model.weights) or model.weights] if model.weights else []
    )
    return digest.of_data([network, corrections])


def validate(context: Context, out: Path, manifest: Path) -> ValidationReport:
    """Manifest and images -> findings, a ranked list of suspicious labels, and a page that shows them."""
    from pergola.components.data.checks.facts import ImageAccess
    from pergola.components.data.checks.validate import run_checks
    from pergola.components.data.page import write_page
    from pergola.components.data.sources.source import open_source

    settings = context.settings
    source = open_source(context.dataset, settings.scan, context.workspace.scratch)
    images = ImageAccess(
        source, settings.model.architecture, settings.model.weights, settings.scan.relabel, context.progress
    )
    validation = run_checks(manifest, settings.validate, images)
    validation.save(out)
    write_page(validation.report, manifest, source, out)
    if settings.validate.expectations or settings.validate.gx_project:
        from pergola.components.data.gx_project import project

        page = project.record(context.workspace.root, validation, context.run.id)
        context.say(f"Great Expectations: {page}")
    return validation.report


def split(context: Context, out: Path, manifest: Path, validation: Path) -> Split:
    """Manifest and findings -> which image is in which split. Images of the last run stay where they were.

    Raises InputError for critical findings: the data cannot be used.
    """
    from pergola.components.data.split import split as assign

    report = ValidationReport.load(validation)
    if not report.ok:
        critical = " ".join(f.message for f in report.findings if f.severity == CRITICAL)
        raise InputError(f"The data cannot be used: {critical} See {validation / 'index.html'}")
    settings, place = context.settings.split, _last_split(context)
    previous = context.reproduces or (place if (place / Split.FILE).is_file() else None)
    result = assign(manifest, report, out, settings, previous=previous)
    if context.reproduces is None:
        place.parent.mkdir(parents=True, exist_ok=True)
        replace_folder(place, out)
    return result


def shards(context: Context, out: Path, manifest: Path, split: Path) -> Shards:
    """Images, manifest and split -> TFRecord shards."""
    from pergola.components.data.shards import write_shards
    from pergola.components.data.sources.source import open_source

    settings = context.settings
    source = open_source(context.dataset, settings.scan, context.workspace.scratch)
    return write_shards(source, manifest, split, out, settings.shards, progress=context.progress)


def shards_part(context: Context, out: Path, manifest: Path, split: Path, index: int, count: int) -> None:
    """Every `count`-th file of the shards from the `index`-th on."""
    from pergola.components.data.partitions import write_partition
    from pergola.components.data.sources.source import open_source

    settings = context.settings
    source = open_source(context.dataset, settings.scan, context.workspace.scratch)
    write_partition(source, manifest, split, out, settings.shards, index, count)


def merge_shards(context: Context, out: Path, parts: Sequence[Path], manifest: Path, split: Path) -> Shards:
    """All parts -> the shards that one pass over everything writes."""
    from pergola.components.data.partitions import merge_shards as merge

    return merge(parts, manifest, split, out, context.settings.shards)


def check_costs(context: Context, inputs: Mapping[str, Path]) -> None:
    """Raises InputError when the file of costs names a class that the data set does not have."""
    from pergola.components.stats.costs import read_costs

    if context.settings.export.costs:
        read_costs(context.settings.export.costs, Shards.load(inputs["shards"]).labels)


def check_belongs(context: Context, inputs: Mapping[str, Path]) -> None:
    """Raises InputError when the data set shares next to nothing with the model whose name it takes."""
    from pergola.components.release import belonging

    if context.reproduces is None and not context.settings.release.allow_contract_changes:
        belonging.check_belongs(context.workspace, context.model, inputs["manifest"])


def _last_split(context: Context) -> Path:
    """Where the last split of this model with these settings is kept."""
    key = digest.of_data(records.to_dict(context.settings.split))[:20]
    return context.workspace.state(context.model) / f"split-{key}"


def replace_folder(target: Path, source: Path) -> None:
    """Have `target` be a copy of `source`, whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
