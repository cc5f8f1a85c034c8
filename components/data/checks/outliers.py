"""Check: images that are far from all others in embedding space, such as a screenshot among leaves.

The score is the mean distance to the nearest neighbours outside the image's own group of near-duplicates
(Ramaswamy, Rastogi, Shim 2000; for deep features Sun et al. 2022). Outliers are beyond Tukey's (1977) fence
on a logarithmic scale: two interquartile ranges above the upper quartile, which one value in 2,700 exceeds
under a normal distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import WARNING, Finding
from pergola.components.artifacts.record import Record
from pergola.components.data.checks.facts import MAX_PATHS, CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.imaging.embeddings import principal
from pergola.components.records import setting
from pergola.components.stats.cross_validation import group_numbers

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]


@dataclass(frozen=True)
class OutlierSettings:
    """When an image is an outlier."""

    neighbours: int = setting(10, "nearest images over which the distance is averaged", low=1, high=100)
    reach: float = setting(2.0, "interquartile ranges above the upper quartile", low=1, high=20)
    num_components: int = setting(256, "principal components of the embedding", low=2, high=4096)
    max_compared: int = setting(20_000, "images that each one is compared with, drawn at random", low=100)
    min_images: int = setting(50, "with fewer images there are no outliers", low=10)
    seed: int = setting(0, "seed of the draw", low=0)


@dataclass(frozen=True)
class Outlier:
    """An image that is far from all others."""

    id: str
    path: str
    label: str
    distance: float  # mean distance to its neighbours, in medians of that distance


@dataclass(frozen=True)
class Outliers(Record):
    """Images beyond the fence, farthest first."""

    FILE: ClassVar[str] = "outliers.json"

    num_images: int
    fence: float  # in medians
    outliers: tuple[Outlier, ...]


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding when there are outliers, and their distances."""
    features = facts.features
    if features is None:
        return CheckResult()
    outliers = find_outliers(features.vectors, features.ids, features.paths, features.labels, facts.groups)
    found = finding(outliers)
    return CheckResult((found,) if found else (), outliers)


def find_outliers(
    embeddings: Floats,
    ids: Sequence[str],
    paths: Sequence[str],
    labels: Sequence[str],
    groups: Mapping[str, str] | None = None,
    settings: OutlierSettings | None = None,
) -> Outliers:
    """The images far from all others. All arguments have a row per image; embeddings: float (N, D)."""
    settings = settings or OutlierSettings()
    if not len(embeddings) == len(ids) == len(paths) == len(labels):
        raise ValueError(
            f"Expected a row, id, path and label per image. "
            f"Got {len(embeddings)}, {len(ids)}, {len(paths)} and {len(labels)}."
        )
    if len(ids) < settings.min_images:
        return Outliers(len(ids), 0.0, ())
    distances = neighbour_distances(embeddings, group_numbers(ids, groups), settings)
    relative = distances / max(float(np.median(distances)), 1e-12)
    _, fence = fences(np.log(np.maximum(relative, 1e-12)), settings.reach)
    far = [i for i in np.argsort(-relative, kind="stable") if np.log(max(relative[i], 1e-12)) > fence]
    return Outliers(
        num_images=len(ids),
        fence=float(np.exp(fence)),
        outliers=tuple(Outlier(ids[i], paths[i], labels[i], float(relative[i])) for i in far),
    )


def neighbour_distances(embeddings: Floats, groups: Ints, settings: OutlierSettings) -> Floats:
    """Mean distance to the nearest images of other groups, float64 (N,).

    Neighbours are searched among `max_compared` images. With fewer than `neighbours` images of other groups
    the mean is over those; with none it is 0.
    """
    points = principal(embeddings, settings.num_components).astype(np.float32)
    others = np.arange(len(points))
    if len(others) > settings.max_compared:
        others = np.random.default_rng(settings.seed).choice(
            len(others), settings.max_compared, replace=False
        )
    squares = (points[others] ** 2).sum(axis=1)
    found = np.empty(len(points))
    for start in range(0, len(points), 512):
        block = points[start : start + 512]
        distances = (block**2).sum(axis=1)[:, None] + squares - 2 * block @ points[others].T
        distances[groups[start : start + 512, None] == groups[others]] = np.inf
        count = min(settings.neighbours, len(others))
        nearest = np.sqrt(np.maximum(np.partition(distances, count - 1, axis=1)[:, :count], 0))
        known = np.isfinite(nearest)
        total = np.where(known, nearest, 0).sum(axis=1)
        found[start : start + 512] = total / np.maximum(known.sum(axis=1), 1)
    return found


def fences(values: Floats, reach: float) -> tuple[float, float]:
    """Tukey's fences: `reach` interquartile ranges below the lower and above the upper quartile."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low - reach * (high - low)), float(high + reach * (high - low))


def finding(outliers: Outliers) -> Finding | None:
    """The finding; None without outliers."""
    if not outliers.outliers:
        return None
    worst = outliers.outliers[0]
    message = (
        f"{len(outliers.outliers)} of {outliers.num_images} images look like no other, such as "
        f"'{worst.path}', {worst.distance:.1f} times as far from its neighbours as the median image. "
        "Review them: they may not belong here."
    )
    shown = outliers.outliers[:MAX_PATHS]
    notes = tuple(f"{outlier.distance:.1f} times as far" for outlier in shown)
    return Finding("outlier", WARNING, len(outliers.outliers), tuple(o.path for o in shown), message, notes)
