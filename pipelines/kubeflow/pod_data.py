"""The data steps as a pod runs them: paths and plain tables in, folders out.

pipelines/kubeflow/ops.py wraps each function here, in pod_model.py and in pod_release.py as a Kubeflow
component; nothing here knows of Kubeflow, so all of it can be tried without. Tables become settings
(Kubeflow hands integers over as floats, which components/records.py mends).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pergola.components import digest, records, steps
from pergola.components.artifacts.data import CRITICAL, Manifest, Shards, Split, ValidationReport
from pergola.components.data.manifest.scan import ScanSettings
from pergola.components.errors import InputError
from pergola.pipelines.kubeflow.failures import noted
from pergola.pipelines.kubeflow.pod_workspace import Workspace, made, replace, settings_of


@noted
def listing(dataset: str, scan: Mapping[str, Any], workspace: str) -> str:
    """SHA-256 over the names, sizes and times of the images: what a scan is reused by."""
    from pergola.components.data.sources.source import open_source

    settings = settings_of(ScanSettings, scan, "scan")
    source = open_source(Path(dataset), settings, Workspace(Path(workspace)).scratch)
    listed = ((e.path, e.label, e.given_split, *e.stamp) for e in source.entries())
    corrections = digest.of_named_file(settings.relabel) or settings.relabel
    return digest.of_rows([*listed, ("relabel", corrections)] if corrections else listed)


@noted
def scan(dataset: str, out: str, settings: Mapping[str, Any], workspace: str) -> Manifest:
    """Images -> manifest."""
    scratch = Workspace(Path(workspace)).scratch
    return steps.scan(Path(dataset), made(out), settings_of(ScanSettings, settings, "scan"), scratch=scratch)


@noted
def scan_part(
    dataset: str, out: str, settings: Mapping[str, Any], index: int, count: int, workspace: str
) -> None:
    """Every `count`-th image -> a part of the manifest."""
    wanted = settings_of(ScanSettings, settings, "scan")
    scratch = Workspace(Path(workspace)).scratch
    steps.scan_part(Path(dataset), made(out), wanted, int(index), int(count), scratch=scratch)


@noted
def merge_scans(parts: Sequence[str], out: str) -> Manifest:
    """All parts -> manifest."""
    return steps.merge_scans([Path(part) for part in parts], made(out))


@noted
def validate(
    dataset: str,
    manifest: str,
    out: str,
    settings: Mapping[str, Any],
    scan: Mapping[str, Any],
    network: Mapping[str, Any],
    workspace: str,
) -> ValidationReport:
    """Manifest and images -> findings and a page.

    A critical finding stops the run at the split, not here, so that the page can be seen.
    """
    from pergola.components.data.checks.validate import ValidateSettings
    from pergola.components.training.models.architectures import ModelSettings

    model = settings_of(ModelSettings, network, "network")
    return steps.validate(
        Path(dataset),
        Path(manifest),
        made(out),
        settings_of(ValidateSettings, settings, "validate"),
        scan=settings_of(ScanSettings, scan, "scan"),
        scratch=Workspace(Path(workspace)).scratch,
        architecture=model.architecture,
        weights=model.weights,
    )


@noted
def split(
    manifest: str, validation: str, out: str, settings: Mapping[str, Any], model: str, workspace: str
) -> Split:
    """Which image is in which part; images of the last run of this model stay where they were.

    Raises InputError for critical findings.
    """
    from pergola.components.data.split import SplitSettings

    _stop_if_critical(Path(validation))
    wanted = settings_of(SplitSettings, settings, "split")
    key = digest.of_data(records.to_dict(wanted))[:20]
    kept = Workspace(Path(workspace)).state(model) / f"split-{key}"
    previous = kept if (kept / Split.FILE).is_file() else None
    result = steps.split(Path(manifest), Path(validation), made(out), wanted, previous=previous)
    replace(kept, Path(out))
    return result


@noted
def shards(
    dataset: str,
    manifest: str,
    split: str,
    out: str,
    settings: Mapping[str, Any],
    scan: Mapping[str, Any],
    workspace: str,
) -> Shards:
    """Images, manifest and split -> TFRecord shards."""
    from pergola.components.data.shards import ShardSettings

    return steps.shards(
        Path(dataset),
        Path(manifest),
        Path(split),
        made(out),
        settings_of(ShardSettings, settings, "shards"),
        scan=settings_of(ScanSettings, scan, "scan"),
        scratch=Workspace(Path(workspace)).scratch,
    )


@noted
def shards_part(
    dataset: str,
    manifest: str,
    split: str,
    out: str,
    settings: Mapping[str, Any],
    scan: Mapping[str, Any],
    index: int,
    count: int,
    workspace: str,
) -> None:
    """Every `count`-th file of the shards."""
    from pergola.components.data.shards import ShardSettings

    steps.shards_part(
        Path(dataset),
        Path(manifest),
        Path(split),
        made(out),
        settings_of(ShardSettings, settings, "shards"),
        int(index),
        int(count),
        scan=settings_of(ScanSettings, scan, "scan"),
        scratch=Workspace(Path(workspace)).scratch,
    )


@noted
def merge_shards(
    parts: Sequence[str], manifest: str, split: str, out: str, settings: Mapping[str, Any]
) -> Shards:
    """All parts -> TFRecord shards."""
    from pergola.components.data.shards import ShardSettings

    wanted = settings_of(ShardSettings, settings, "shards")
    folders = [Path(part) for part in parts]
    return steps.merge_shards(folders, Path(manifest), Path(split), made(out), wanted)


def _stop_if_critical(validation: Path) -> None:
    found = ValidationReport.load(validation)
    if not found.ok:
        critical = " ".join(f.message for f in found.findings if f.severity == CRITICAL)
        raise InputError(f"The data cannot be used: {critical} The page of the validate step shows them.")
