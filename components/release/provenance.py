"""What a version was made of, in files of its own that stay when the run's own are tidied away.

<workspace>/versions/<model>/<N>/
  origin.json        run, source, code, command, reason
  settings.toml      all settings of the run
  images.parquet   every file: path, label, id, part, group, and why it was kept out
  split.json, split.parquet, manifest.json, validation.json, training.json, export.json,
  evaluation.json, decision.json, registration.json    as the steps left them

A version never changes, so neither does this: what is there is left as it is.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pergola.components import records
from pergola.components.artifacts.data import Manifest, Split, ValidationReport
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.record import Record
from pergola.components.artifacts.release import Registration
from pergola.components.artifacts.training import Export, Training

if TYPE_CHECKING:
    import pandas as pd

SETTINGS, IMAGES = "settings.toml", "images.parquet"


@dataclass(frozen=True)
class Origin(Record):
    """Where a version comes from. A history, so unlike an artifact it has a clock and a path in it."""

    FILE: ClassVar[str] = "origin.json"

    model: str
    version: int
    run: str
    source: str  # of the images
    code: str  # version of the code
    command: str  # that a person typed; empty on a cluster
    reason: str  # why there was a run; empty when a person wanted it
    released_s: int  # seconds since 1970


@dataclass(frozen=True)
class Made:
    """Folders of what a version was made of."""

    manifest: Path
    validation: Path
    split: Path
    training: Path
    export: Path
    evaluation: Path
    decision: Path
    registration: Path


def keep(place: Path, origin: Origin, settings: str, made: Made) -> None:
    """Write the dossier of a version, whole or not at all; nothing happens when there is one.

    settings: of the run, as TOML.
    """
    if (place / Origin.FILE).is_file():
        return
    partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        origin.save(partial)
        records.write_atomic(partial / SETTINGS, settings)
        for file in _records(made):
            shutil.copyfile(file, partial / file.name)
        _images(made).to_parquet(partial / IMAGES, index=False)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def images(place: Path, id: str) -> list[dict[str, str | None]]:
    """The files of a version's data set with this content: path, label, part, group, kept_out."""
    import pandas as pd

    table = pd.read_parquet(place / IMAGES, filters=[("id", "==", id)])
    rows = table.astype(object).where(table.notna(), None)
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]


def ids(place: Path) -> set[str]:
    """Of all files of a version's data set."""
    import pandas as pd

    return set(pd.read_parquet(place / IMAGES, columns=["id"])["id"])


def _records(made: Made) -> list[Path]:
    return [
        made.manifest / Manifest.FILE,
        made.validation / ValidationReport.FILE,
        made.split / Split.FILE,
        made.split / "split.parquet",
        made.training / Training.FILE,
        made.export / Export.FILE,
        made.evaluation / Evaluation.FILE,
        made.decision / Decision.FILE,
        made.registration / Registration.FILE,
    ]


def _images(made: Made) -> pd.DataFrame:
    files = Manifest.table(made.manifest, ["path", "label", "id"])
    split = Split.table(made.split, ["id", "part", "group"])
    kept_out = ValidationReport.load(made.validation).quarantined
    table = files.merge(split, on="id", how="left")
    table["kept_out"] = table["path"].map(kept_out)
    table.loc[table["kept_out"].notna(), ["part", "group"]] = None
    return table.sort_values(["id", "path"], ignore_index=True)
