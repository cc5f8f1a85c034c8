"""Images that lie far from all others: in embedding space, and by how they were made.

A screenshot among leaves, a grey image among coloured ones, one compressed to mush. Distances to the
nearest neighbours outside an image's own group of near-duplicates (Ramaswamy, Rastogi, Shim 2000; for deep
features Sun et al. 2022), on a scale of logarithms, and a fence after Tukey (1977): two interquartile ranges
above the upper quartile, beyond which one value in 2,700 lies under a normal law.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.artifacts.record import Record
from pergola.components.imaging.embeddings import principal
from pergola.components.records import setting
from pergola.components.stats.cross_validation import group_numbers
from pergola.serving.wire import images

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]

CHECK, GREY_CHECK = "outlier", "grey_among_colour"
_SIDE = 32


@dataclass(frozen=True)
class OutlierSettings:
    """When an image is odd."""

    enabled: bool = setting(True, "look for outliers")
    neighbours: int = setting(10, "nearest images whose mean distance counts", low=1, high=100)
    reach: float = setting(2.0, "interquartile ranges above the upper quartile", low=1, high=20)
    num_components: int = setting(256, "directions of the embedding that are used", low=2, high=4096)
    max_compared: int = setting(20_000, "images that each is compared with, drawn by chance", low=100)
    min_images: int = setting(50, "fewer images have no outliers", low=10)
    min_colour: float = setting(
        0.9, "grey images are odd where so large a share is coloured", low=0.5, high=1
    )
    seed: int = setting(0, "seed of the draw", low=0)


@dataclass(frozen=True)
class Outlier:
    """An image that lies far from all others."""

    id: str
    path: str
    label: str
    distance: float  # mean distance to its neighbours, in medians of that distance


@dataclass(frozen=True)
class Outliers(Record):
    """Images beyond the fence, furthest first."""

    FILE: ClassVar[str] = "outliers.json"

    num_images: int
    fence: float  # in medians
    outliers: tuple[Outlier, ...]


def find_outliers(
    embeddings: Floats,
    ids: Sequence[str],
    paths: Sequence[str],
    labels: Sequence[str],
    groups: Mapping[str, str] | None = None,
    settings: OutlierSettings | None = None,
) -> Outliers:
    """The images far from all others. Rows of all arguments belong together; embeddings: float (N, D)."""
    settings = settings or OutlierSettings()
    if not len(embeddings) == len(ids) == len(paths) == len(labels):
        raise ValueError(
            f"Wanted a row, id, path and label an image. "
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

    Neighbours are looked for among `max_compared` images. With fewer than `neighbours` images of other
    groups, the mean is over those; with none it is 0.
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
        part = points[start : start + 512]
        apart = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ points[others].T
        apart[groups[start : start + 512, None] == groups[others]] = np.inf
        count = min(settings.neighbours, len(others))
        nearest = np.sqrt(np.maximum(np.partition(apart, count - 1, axis=1)[:, :count], 0))
        known = np.isfinite(nearest)
        total = np.where(known, nearest, 0).sum(axis=1)
        found[start : start + 512] = total / np.maximum(known.sum(axis=1), 1)
    return found


def fences(values: Floats, reach: float) -> tuple[float, float]:
    """Tukey's fences: the quartiles, and `reach` times their distance further out."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low - reach * (high - low)), float(high + reach * (high - low))


def beyond(values: Floats, reach: float = 3.0) -> Bools:
    """Which values lie beyond the fences, bool (N,). nan does not. 3 are Tukey's outer fences.

    For a column of the manifest: ln of width x height, of width / height or of bytes a pixel. Where more
    than half of all values are equal, the fences are at that value: give the column a spread first, or do
    not ask.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(len(values), np.bool_)
    low, high = fences(known, reach)
    return (values < low) | (values > high)


def colourfulness(encoded: bytes) -> float:
    """How much colour an image has in its most colourful twentieth, 0 (grey) to 113.

    Mean distance of the channels from their mean, of a thumbnail of 32 pixels a side: a small leaf on a white
    sheet has colour. Raises ValueError for what is no image.
    """
    with images.opened(encoded) as image, images.decoding("it"):
        if image.mode == "RGB":
            image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        return colour_of(images.flat(image).convert("RGB"))


def colour_of(image: Image.Image) -> float:
    """The same of an image in RGB."""
    pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)).astype(np.float32)
    apart = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).mean(axis=2)
    return float(np.sort(apart, axis=None)[-_SIDE * _SIDE // 20 :].mean())


def grey_among_colour(colours: Floats, settings: OutlierSettings | None = None, grey: float = 1.0) -> Bools:
    """Which images are grey in a data set of coloured ones, bool (N,). colours: `colourfulness` of each."""
    settings = settings or OutlierSettings()
    is_grey = colours < grey
    coloured = np.mean(~is_grey) if len(colours) else 0.0
    return is_grey if coloured >= settings.min_colour else np.zeros(len(colours), np.bool_)


def finding(outliers: Outliers) -> Finding | None:
    """What a person is told; None when nothing lies beyond the fence."""
    if not outliers.outliers:
        return None
    worst = outliers.outliers[0]
    message = (
        f"{len(outliers.outliers)} of {outliers.num_images} images look like no other, such as "
        f"'{worst.path}', {worst.distance:.1f} times as far from its neighbours as is usual. "
        "Look at them: they may not belong here."
    )
    shown = outliers.outliers[:100]
    notes = tuple(f"{outlier.distance:.1f} times as far" for outlier in shown)
    return Finding(CHECK, WARNING, len(outliers.outliers), tuple(o.path for o in shown), message, notes)


def grey_finding(paths: Iterable[str], num_images: int) -> Finding | None:
    """What a person is told about grey images among coloured ones."""
    found = tuple(paths)
    if not found:
        return None
    message = (
        f"{len(found):,} of {num_images:,} images are grey, the others coloured, such as '{found[0]}'. "
        "If one class has more of them than another, a model learns that."
    )
    return Finding(GREY_CHECK, INFO, len(found), found[:100], message)
