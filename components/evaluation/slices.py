"""Accuracy by slice: by size, brightness, source or any column.

A slice is compared with all other images by Fisher's exact test. P-values are corrected for the number of
slices by Holm's method. A slice with few images is reported as too small to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import SPLITS, Manifest
from pergola.components.artifacts.record import Record
from pergola.components.records import setting
from pergola.components.stats.metrics import wilson_interval

if TYPE_CHECKING:
    import pandas as pd

Bools = npt.NDArray[np.bool_]

WORSE, BETTER, ALIKE, TOO_SMALL = "worse", "better", "alike", "too small to judge"
OTHER, UNKNOWN = "(other)", "(unknown)"
SIZE, BRIGHTNESS, FORMAT, SOURCE = "longer side, px", "brightness", "format", "source"
MANY = 12  # more distinct numbers than this are cut into ranges
_LIST = "list."  # prefix of a list's additional columns in the manifest


@dataclass(frozen=True)
class SliceSettings:
    """How slices are cut and tested."""

    num_bins: int = setting(4, "slices of a numeric column, with equally many images", low=2, high=20)
    max_values: int = setting(12, "slices of a text column; rarer values share one slice", low=2, high=100)
    min_images: int = setting(30, "smaller slices are not tested", low=2)
    significance: float = setting(
        0.05, "probability that any slice is wrongly called worse or better", low=1e-4, high=0.5
    )


@dataclass(frozen=True)
class Slice:
    """The accuracy on a subset of the test images."""

    column: str
    name: str  # "12 to 80", "JPEG", "(unknown)"
    num_images: int
    accuracy: float
    interval: tuple[float, float]  # 95%, Wilson
    rest: float  # accuracy on all other images
    p_value: float | None  # corrected; None if not tested
    verdict: str


@dataclass(frozen=True)
class Slices(Record):
    """All slices, by column and ascending value."""

    FILE: ClassVar[str] = "slices.json"

    slices: tuple[Slice, ...]

    def worst(self) -> Slice | None:
        """The tested slice of the lowest accuracy; None if all slices are too small."""
        judged = [one for one in self.slices if one.p_value is not None]
        return min(judged, key=lambda one: (one.accuracy, one.column, one.name), default=None)


def columns_of(manifest_folder: Path, ids: Sequence[str]) -> dict[str, list[Any]]:
    """Columns of the manifest by which slices are cut: size, brightness, format, source, columns of a list.

    Source is the path of an image's folder without its class and without "train" and the like, often the
    camera or the place.
    """
    import pyarrow.parquet as parquet

    given = parquet.read_schema(manifest_folder / "manifest.parquet").names
    further = [name for name in given if name.startswith(_LIST)]
    table = Manifest.table(
        manifest_folder, ["id", "path", "label", "width", "height", "brightness", "format", *further]
    )
    rows = table.drop_duplicates("id").set_index("id").loc[list(ids)]
    places = zip(rows["path"], rows["label"], strict=True)
    return {
        SIZE: rows[["width", "height"]].max(axis=1).tolist(),
        BRIGHTNESS: rows["brightness"].tolist(),
        FORMAT: rows["format"].tolist(),
        SOURCE: [_source(path, label) for path, label in places],
        **{name.removeprefix(_LIST): _values(rows[name]) for name in further},
    }


def _source(path: str, label: str) -> str:
    left_out = {label.lower(), *SPLITS, "val", "valid"}
    return "/".join(part for part in PurePosixPath(path).parts[:-1] if part.lower() not in left_out)


def _values(column: pd.Series[Any]) -> list[Any]:
    """The values of a list's column: numbers if all are numeric and many, else texts. None: empty."""
    import pandas as pd

    words = column.where(column.notna() & (column != ""), None)
    numbers = pd.to_numeric(words, errors="coerce")
    all_are_numbers = numbers.notna().sum() == words.notna().sum()
    return (numbers if all_are_numbers and numbers.nunique() > MANY else words).tolist()


def slice_scores(
    correct: Bools, columns: Mapping[str, Sequence[Any]], settings: SliceSettings | None = None
) -> Slices:
    """Accuracy of each slice of each column.

    correct: bool (N,), whether the prediction was correct.
    columns: name -> N values, numbers or texts; None and nan are one slice. Columns with a single value are
        omitted.
    """
    settings = settings or SliceSettings()
    found = []
    for column, values in columns.items():
        if len(values) != len(correct):
            raise ValueError(f"Column '{column}' has {len(values)} values for {len(correct)} images.")
        parts = cut(values, settings)
        found += [(column, name, inside) for name, inside in parts] if len(parts) > 1 else []
    p_values = [_p_value(correct, inside, settings) for _, _, inside in found]
    corrected = iter(holm([p for p in p_values if p is not None]))
    judged = [None if p is None else next(corrected) for p in p_values]
    return Slices(
        tuple(
            _slice(column, name, correct, inside, p, settings)
            for (column, name, inside), p in zip(found, judged, strict=True)
        )
    )


def cut(values: Sequence[Any], settings: SliceSettings) -> list[tuple[str, Bools]]:
    """The slices of a column: name, and bool (N,) which images it contains. Every image is in one slice."""
    known = np.array([value is not None and value == value for value in values], np.bool_)
    present = [value for value, is_known in zip(values, known, strict=True) if is_known]
    if present and all(isinstance(value, int | float | np.number) for value in present):
        parts = _cut_numbers(np.array(present, np.float64), settings.num_bins)
    else:
        parts = _cut_texts([str(value) for value in present], settings.max_values)
    found = []
    for name, inside in parts:
        whole = np.zeros(len(values), np.bool_)
        whole[known] = inside
        found.append((name, whole))
    return found if known.all() else [*found, (UNKNOWN, ~known)]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple comparisons, 0 to 1. Source: Holm 1979."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values, np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1) if len(order) else scaled
    return [float(p) for p in corrected]


def _cut_numbers(values: npt.NDArray[np.float64], num_bins: int) -> list[tuple[str, Bools]]:
    edges = np.unique(np.quantile(values, np.arange(1, num_bins) / num_bins, method="higher"))
    bins = np.searchsorted(edges, values, side="right")
    parts = []
    for index in np.unique(bins):
        inside = bins == index
        low, high = values[inside].min(), values[inside].max()
        parts.append((_short(low) if low == high else f"{_short(low)} to {_short(high)}", inside))
    return parts


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"


def _cut_texts(values: list[str], max_values: int) -> list[tuple[str, Bools]]:
    words = np.array(values, dtype=object)
    names, counts = np.unique(words, return_counts=True) if len(words) else (words, words)
    order = sorted(range(len(names)), key=lambda i: (-counts[i], names[i]))
    kept = sorted(names[i] for i in (order if len(order) <= max_values else order[: max_values - 1]))
    parts = [(str(name), words == name) for name in kept]
    rest = ~np.isin(words, kept) if len(words) else np.zeros(0, np.bool_)
    return [*parts, (OTHER, rest)] if rest.any() else parts


def _p_value(correct: Bools, inside: Bools, settings: SliceSettings) -> float | None:
    from scipy.stats import fisher_exact

    count = int(inside.sum())
    if count < settings.min_images or len(correct) - count < settings.min_images:
        return None
    table = [[int((correct & part).sum()), int((~correct & part).sum())] for part in (inside, ~inside)]
    return float(fisher_exact(table).pvalue)


def _slice(
    column: str, name: str, correct: Bools, inside: Bools, p_value: float | None, settings: SliceSettings
) -> Slice:
    count, hits = int(inside.sum()), int((correct & inside).sum())
    rest = float(correct[~inside].mean())
    verdict = TOO_SMALL
    if p_value is not None:
        verdict = ALIKE if p_value > settings.significance else WORSE if hits / count < rest else BETTER
    return Slice(column, name, count, hits / count, wilson_interval(hits, count), rest, p_value, verdict)
