"""Which data sets and versions used an image, and what provably did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import Manifest, Shards
from pergola.components.data.shard_reader import read_images
from pergola.components.errors import InputError, PergolaError
from pergola.components.evaluation.drift.feedback import image_id
from pergola.components.release import provenance
from pergola.components.release.provenance import Provenance
from pergola.components.workspace import Workspace
from pergola.pipelines.monitoring import lineage


@dataclass(frozen=True)
class Evidence:
    """What is known of the images in a workspace."""

    asked: tuple[str, ...]  # ids of the images' files
    ids: frozenset[str]  # these, and those of the same images as a client sends them
    versions: tuple[dict[str, Any], ...]  # {"model", "version", "files"}: the uses in data sets of versions
    manifests: tuple[Path, ...]  # outputs of scans that hold one of them, or cannot be read
    in_manifest: bool  # whether one of these certainly does
    clean: frozenset[str]  # fingerprints of data sets without any of them


def evidence_of(workspace: Workspace, images: Sequence[str]) -> Evidence:
    """images: SHA-256 of files, or paths of them. Raises InputError for anything else."""
    workspace.require()
    asked, ids = [], set()
    for text in images:
        if not lineage.is_image(text):
            raise InputError(
                f"'{text}' is neither the SHA-256 of an image, 64 hexadecimal digits, nor the path of one. "
                "`pergola lineage IMAGE` and the column id of a list of labels show it."
            )
        found = lineage.image_ids(text)
        asked.append(found[0])
        ids.update(found)
    versions, clean = _versions(workspace, asked)
    manifests, in_manifest = [], False
    for folder in sorted(path for path in (workspace.steps / "scan").glob("*") if path.is_dir()):
        try:
            fingerprint, has = Manifest.load(folder).fingerprint, _has(folder, asked)
        except (OSError, ValueError, PergolaError):  # of a scan that was killed
            manifests.append(folder)
            continue
        in_manifest |= has
        if has:
            manifests.append(folder)
        else:
            clean.add(fingerprint)
    ids.update(_as_sent(workspace, asked), _in_sources(versions))
    return Evidence(tuple(asked), frozenset(ids), tuple(versions), tuple(manifests), in_manifest,
                    frozenset(clean))  # fmt: skip


def _has(manifest: Path, ids: Iterable[str]) -> bool:
    return not set(ids).isdisjoint(Manifest.table(manifest, ["id"])["id"])


def _versions(workspace: Workspace, ids: Sequence[str]) -> tuple[list[dict[str, Any]], set[str]]:
    """Versions whose data set holds one of the images, and the fingerprints of the others."""
    found, clean = [], set()
    for model, version, place in lineage.recorded_versions(workspace):
        files = [row for id in ids for row in provenance.images(place, id)]
        source = Provenance.load(place).source
        if files:
            found.append({"model": model, "version": version, "source": source, "files": files})
        elif (place / Manifest.FILE).is_file():
            clean.add(Manifest.load(place).fingerprint)
    return found, clean


def _as_sent(workspace: Workspace, ids: Sequence[str]) -> set[str]:
    """Ids of the images as shards hold them and clients send them: upright, in a format of a model."""
    found: set[str] = set()
    for folder in (workspace.steps / "shards").glob("*"):
        try:
            for split in Shards.load(folder).splits:
                found.update(image_id(one.image) for one in read_images(folder, split, set(ids)))
        except (OSError, ValueError, PergolaError):  # not finished, or partly deleted
            continue
    return found


def _in_sources(versions: Iterable[dict[str, Any]]) -> set[str]:
    """The same, from the files of the data sets, where these are still there."""
    paths = {Path(one["source"]) / file["path"]: file["id"] for one in versions for file in one["files"]}
    found: set[str] = set()
    for path, id in paths.items():
        if path.is_file():
            ids = lineage.image_ids(str(path))
            found.update(ids if ids[0] == id else ())
    return found
