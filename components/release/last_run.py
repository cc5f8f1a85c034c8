"""What the last run of a model was made of, so that the next one can see whether anything changed."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pergola.components import digest, records
from pergola.components.artifacts.data import Manifest
from pergola.components.artifacts.record import Record
from pergola.components.release.retrain import rows_of


@dataclass(frozen=True)
class LastRun(Record):
    """In state/<model>/ of the workspace. A run that failed leaves none."""

    FILE: ClassVar[str] = "last-run.json"
    ROWS: ClassVar[str] = "last-rows.npy"  # beside it: the images, see components/release/retrain.py

    fingerprint: str  # of the manifest
    settings: str  # SHA-256 of the settings
    decision: str
    version: int | None
    ended_s: int = 0  # seconds since 1970; 0: not noted
    labels: tuple[str, ...] = ()  # classes of the data; empty: not noted


def remember(
    place: Path, manifest: Path, settings: Mapping[str, Any], outcome: str, version: int | None
) -> None:
    """Note that a run ended.  settings: by section.  outcome: of the gate.  version: None if rejected."""
    rows = io.BytesIO()
    np.save(rows, rows_of(manifest))
    records.write_atomic(place / LastRun.ROWS, rows.getvalue())
    LastRun(
        fingerprint=Manifest.load(manifest).fingerprint,
        settings=digest.of_data(settings),
        decision=outcome,
        version=version,
        ended_s=int(time.time()),
        labels=Manifest.load(manifest).labels,
    ).save(place)
