"""The table that expectations on files apply to, see expectations.toml, and the rows that fail them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.data.expectations.great_expectations import Checker
from pergola.components.data.expectations.own_rules import OwnChecker
from pergola.components.data.expectations.rules import Outcome
from pergola.components.data.manifest.index import NO_IMAGE, ManifestIndex
from pergola.components.data.manifest.parquet import batches
from pergola.components.data.manifest.relabel import TAKEN_OUT
from pergola.components.data.sources.source import NO_CLASS

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 25_000
_FLAT = 2.0  # contrast below which an image has a single tone
_SIXTEENTH = 16.0  # of 256 grey levels: what 12 bits reach in an image of 16
_COLUMNS = [
    "path", "label", "given_split", "format", "mode", "width", "height", "bytes", "orientation",
    "brightness", "contrast", "sharpness", "reason",
]  # fmt: skip
_MEASURED = ["width", "height", "orientation", "brightness", "contrast", "sharpness"]


def check_files(folder: Path, index: ManifestIndex, checker: Checker | OwnChecker) -> list[Outcome]:
    """For each rule what it found among the files."""
    outcomes = [Outcome() for _ in checker.rules]
    for start, table in tables(folder, index, len(index.image) if checker.whole else _BLOCK):
        for outcome, part in zip(outcomes, checker.outcomes(table), strict=True):
            outcome.add(part, start)
    return outcomes


def tables(folder: Path, index: ManifestIndex, block: int = _BLOCK) -> Iterator[tuple[int, pd.DataFrame]]:
    """The columns that expectations may name, in blocks of rows, each with the number of its first row."""
    for start, batch in batches(folder / "manifest.parquet", _COLUMNS, block):
        yield start, _with_derived_columns(batch.to_pandas(), index, start)


def _with_derived_columns(table: pd.DataFrame, index: ManifestIndex, start: int) -> pd.DataFrame:
    rows = np.arange(start, start + len(table))
    image = index.image[rows]
    readable = image != NO_IMAGE
    known = np.where(readable, image, 0)

    def of_image(values: np.ndarray) -> np.ndarray:
        return np.where(readable, values[known], np.nan) if len(values) else np.full(len(rows), np.nan)

    for column in _MEASURED:
        table[column] = table[column].astype(np.float64).where(readable)
    table["labels"] = of_image(index.labels)
    copies = (of_image(index.first) != rows) & (table["labels"] == 1)
    table["copies"] = copies.astype(np.float64).where(readable)
    table["elsewhere"] = table["path"].str.match(r"(?:also:)?\.\./").astype(np.int64)
    for column in ("near_copies", "near_labels", "splits"):
        table[column] = of_image(getattr(index, column))
    # An image under two labels is a label conflict, not a near conflict.
    table["near_labels"] = table["near_labels"].mask(table["labels"] > 1)
    unlabelled = table["reason"] == NO_CLASS
    table["unlabelled"] = unlabelled.astype(np.float64)
    taken_out = table["reason"] == TAKEN_OUT
    table["taken_out"] = taken_out.astype(np.float64)
    table["reason"] = table["reason"].mask(taken_out | unlabelled)
    table["side"] = table[["width", "height"]].min(axis=1)
    longer = table[["width", "height"]].max(axis=1)
    table["aspect"] = longer / table["side"]
    table["scale"] = np.maximum(longer / index.median_side, index.median_side / longer)
    table["grain"] = table["sharpness"] / table["contrast"].where(table["contrast"] >= _FLAT) ** 2
    table["shadows"] = table["brightness"] - 2 * table["contrast"]
    table["highlights"] = table["brightness"] + 2 * table["contrast"]
    shallow = table["mode"].str.startswith("I", na=False) & (table["highlights"] < _SIXTEENTH)
    table["shallow"] = shallow.astype(np.float64)
    for column in ("contrast", "sharpness", "highlights"):  # they measure what was lost
        table[column] = table[column].mask(shallow)
    return table
