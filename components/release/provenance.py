"""The provenance of a released version, in files of its own that remain when the run's are deleted.

<workspace>/versions/<model>/<N>/
  origin.json        run, source, code, command, reason
  settings.toml      all settings of the run
  images.parquet     every file: path, label, id, split, group, and why it was excluded
  split.json, split.parquet, manifest.json, validation.json, training.json, export.json,
  evaluation.json, decision.json, registration.json    as the steps wrote them
  golden.json, reference/    what a held version is confirmed by and published with, once it is promoted
  checksums.json     name -> SHA-256 of these files
  anchor.parquet     what the anchor answered to the test images, see components/release/anchor.py

A version never changes, so its provenance is written only once; the decision is that of the last run.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pergola.components import digest, records
from pergola.components.artifacts.data import Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation, GoldenRequests
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.release import Champion, Registration
from pergola.components.artifacts.training import Export, Training
from pergola.components.workspace import read_json

if TYPE_CHECKING:
    import pandas as pd

SETTINGS, IMAGES, SUMS, REFERENCE = "settings.toml", "images.parquet", "checksums.json", "reference"


@dataclass(frozen=True)
class Provenance(Record):
    """Where a version comes from. Unlike an artifact, it contains a time and a path."""

    FILE: ClassVar[str] = "origin.json"
    SCHEMA_NAME: ClassVar[str] = "Origin"

    model: str
    version: int
    run: str
    source: str  # of the images
    code: str  # version of the code
    command: str  # as typed; empty on a cluster
    reason: str  # why a run was started automatically; empty otherwise
    released_s: int  # seconds since 1970


@dataclass(frozen=True)
class ProvenanceSources:
    """The artifact folders that a version was built from."""

    manifest: Path
    validation: Path
    split: Path
    training: Path
    export: Path
    evaluation: Path
    decision: Path
    registration: Path
    reference: Path | None = None  # of drift


def write(place: Path, origin: Provenance, settings: str, sources: ProvenanceSources) -> None:
    """Write the provenance of a version atomically. If it is there and sound, only the decision is written.

    settings: the run's settings as TOML.
    """
    if is_sound(place):
        Decision.load(sources.decision).save(place)
        _write_sums(place)
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        origin.save(partial)
        records.write_atomic(partial / SETTINGS, settings)
        for file in _records(sources):
            shutil.copyfile(file, partial / file.name)
        if (golden := sources.evaluation / GoldenRequests.FILE).is_file():
            shutil.copyfile(golden, partial / golden.name)
        if sources.reference is not None:
            shutil.copytree(sources.reference, partial / REFERENCE)
        if (sources.decision / Champion.ANSWERS).is_file():  # a decision of an older pergola has none
            shutil.copyfile(sources.decision / Champion.ANSWERS, partial / Champion.ANSWERS)
        _images(sources).to_parquet(partial / IMAGES, index=False)
        _write_sums(partial)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_golden(place: Path) -> None:
    """Delete the golden requests of a version: images of its test split."""
    (place / GoldenRequests.FILE).unlink()
    _write_sums(place)


def _write_sums(place: Path) -> None:
    files = (path for path in place.rglob("*") if path.is_file() and path.name != SUMS)
    sums = {path.relative_to(place).as_posix(): digest.of_file(path) for path in files}
    records.write_atomic(place / SUMS, json.dumps(sums, indent=1, sort_keys=True) + "\n")


def is_sound(place: Path) -> bool:
    """Whether a version's provenance is there, and its files are those that were written.

    Provenance of a pergola before 0.2 has no checksums; of that, only its presence is looked at.
    """
    if not (place / Provenance.FILE).is_file():
        return False
    if not (place / SUMS).is_file():
        return True
    sums = read_json(place / SUMS)
    try:
        return bool(sums) and all(digest.of_file(place / name) == wanted for name, wanted in sums.items())
    except OSError:
        return False


def images(place: Path, id: str) -> list[dict[str, str | None]]:
    """The files with this id in a version's dataset: path, label, split, group, excluded."""
    import pandas as pd

    table = pd.read_parquet(place / IMAGES, filters=[("id", "==", id)])
    rows = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def ids(place: Path) -> set[str]:
    """The ids of all files of a version's dataset."""
    import pandas as pd

    return set(pd.read_parquet(place / IMAGES, columns=["id"])["id"])


def _records(sources: ProvenanceSources) -> list[Path]:
    return [
        sources.manifest / Manifest.FILE,
        sources.validation / ValidationReport.FILE,
        sources.split / Split.FILE,
        sources.split / "split.parquet",
        sources.training / Training.FILE,
        sources.export / Export.FILE,
        sources.evaluation / Evaluation.FILE,
        sources.decision / Decision.FILE,
        sources.registration / Registration.FILE,
    ]


def _images(sources: ProvenanceSources) -> pd.DataFrame:
    files = Manifest.table(sources.manifest, ["path", "label", "id"])
    split = Split.table(sources.split, ["id", "split", "group"])
    excluded = ValidationReport.load(sources.validation).quarantined
    table = files.merge(split, on="id", how="left")
    table["excluded"] = table["path"].map(excluded)
    table.loc[table["excluded"].notna(), ["split", "group"]] = None
    return table.sort_values(["id", "path"], ignore_index=True)
