"""Classes that can be told without looking at what an image shows.

A model takes the easiest way: when all images of a class were taken with one camera or have one border, it
learns that. So a tiny decision tree tries to tell the classes by each single field of the manifest, and by
the colour of the border, on images that it has not seen. Where it tells a class almost surely, the field
is a shortcut. Source of the idea: Geirhos et al. 2020, "Shortcut learning in deep neural networks".

How well a class is told is its informedness (Youden 1950): the share of its images that are called so,
minus the share of all others that are called so too; 0 is chance, 1 is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.artifacts.record import Record
from pergola.components.records import setting
from pergola.components.stats.cross_validation import enough_groups, group_folds, group_numbers
from pergola.components.stats.metrics import difference_interval, wilson_interval
from pergola.serving.wire import images

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

CHECK, METADATA_CHECK = "shortcut", "metadata"
_MUCH = 0.25  # of what the most frequent class leaves over, that metadata must explain to be worth telling
BORDER = "border"
FIELDS: dict[str, tuple[str, ...]] = {
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "sharpness": ("sharpness",),
    "size": ("width", "height"),
    "bytes": ("bytes",),
    "format": ("format", "mode", "orientation"),
}  # what a person calls it -> columns of the manifest
_DRAFT_PX = 128


@dataclass(frozen=True)
class ShortcutSettings:
    """When a field gives a class away."""

    enabled: bool = setting(True, "look for shortcuts")
    min_informedness: float = setting(
        0.75, "a shortcut tells a class at least so well, surely (0 is chance, 1 is certain)", low=0.1, high=1
    )
    folds: int = setting(5, "parts that are predicted in turn", low=2, high=20)
    max_images: int = setting(20_000, "images that are looked at, drawn by chance", low=100)
    seed: int = setting(0, "seed of the folds and of the draw", low=0)


@dataclass(frozen=True)
class Shortcut:
    """How well one field alone tells one class."""

    field: str
    label: str
    informedness: float  # -1 to 1
    interval: tuple[float, float]  # 95%, Newcombe
    found: float  # share of the class's images that are called so
    mistaken: float  # share of all others that are called so
    gives_away: bool


@dataclass(frozen=True)
class Shortcuts(Record):
    """What can be told from metadata alone."""

    FILE: ClassVar[str] = "shortcuts.json"

    num_images: int
    accuracy: float  # of a small forest on all fields together, on images that it has not seen
    interval: tuple[float, float]  # 95%, Wilson
    majority: float  # share of the most frequent class
    fields: tuple[Shortcut, ...]  # best field and class first


def find_shortcuts(
    rows: pd.DataFrame,
    borders: Floats | None = None,
    groups: Mapping[str, str] | None = None,
    settings: ShortcutSettings | None = None,
) -> Shortcuts:
    """How well each field tells each class.

    rows: readable rows of the manifest, with id, label and the columns of FIELDS; columns that are missing
    are
        passed over.
    borders: `border` of each image, float (N, 4), in the order of the rows.
    groups: id -> group, for near-duplicates; a group is never learned from and predicted at once.
    """
    settings = settings or ShortcutSettings()
    labels, known, group, chosen = _chosen(rows, groups, settings)
    if len(known) < 2:
        return Shortcuts(len(chosen), 0.0, (0.0, 1.0), 1.0, ())
    features = _features(rows.iloc[chosen], None if borders is None else borders[chosen])
    folds = list(group_folds(labels, group, settings.folds, settings.seed))
    found = [
        shortcut
        for field, values in features.items()
        for shortcut in _told(
            field, labels, _predicted(values, labels, folds, settings.seed), known, settings
        )
    ]
    together = _predicted(np.column_stack(list(features.values())), labels, folds, settings.seed, forest=True)
    hits = int((together == labels).sum())
    return Shortcuts(
        num_images=len(labels),
        accuracy=hits / len(labels),
        interval=wilson_interval(hits, len(labels)),
        majority=float(np.bincount(labels).max() / len(labels)),
        fields=tuple(sorted(found, key=lambda s: (-s.interval[0], s.field, s.label))),
    )


def border(encoded: bytes) -> tuple[float, float, float, float]:
    """Mean red, green and blue of an image's outermost pixels, 0 to 255, and how much they vary.

    A JPEG is decoded at the smallest of libjpeg's scales that has 128 pixels a side; the outermost
    hundredth of each side counts, at least a pixel. Raises ValueError for what is no image.
    """
    with images.opened(encoded) as image, images.decoding("it"):
        if image.mode == "RGB":
            image.draft("RGB", (_DRAFT_PX, _DRAFT_PX))
        return border_of(np.asarray(images.flat(image).convert("RGB")))


def border_of(pixels: npt.NDArray[np.uint8]) -> tuple[float, float, float, float]:
    """The same of uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    down, across = max(1, height // 100), max(1, width // 100)
    sides = (pixels[:down], pixels[-down:], pixels[:, :across], pixels[:, -across:])
    ring = np.concatenate([side.reshape(-1, 3) for side in sides]).astype(np.float32)
    red, green, blue = ring.mean(axis=0)
    return float(red), float(green), float(blue), float(ring.std(axis=0).mean())


def borders(encoded: Iterable[bytes]) -> Floats:
    """The border of each image, float32 (N, 4); nan where it cannot be read."""

    def one(data: bytes) -> tuple[float, ...]:
        try:
            return border(data)
        except ValueError:
            return (np.nan,) * 4

    return np.array([one(data) for data in encoded], np.float32).reshape(-1, 4)


def findings(
    shortcuts: Shortcuts, examples: Mapping[str, Sequence[str]] | None = None
) -> tuple[Finding, ...]:
    """What a person is told: one finding a class that is given away, and how well metadata alone do.

    examples: class -> paths of some of its images, to be shown.  The second is only told where metadata do
    surely and much better than the most frequent class would.
    """
    given_away: dict[str, list[Shortcut]] = {}
    for shortcut in shortcuts.fields:
        if shortcut.gives_away:
            given_away.setdefault(shortcut.label, []).append(shortcut)
    paths = {label: tuple((examples or {}).get(label, ())) for label in given_away}
    found = [
        Finding(CHECK, WARNING, 1, paths[label], _message(label, ways)) for label, ways in given_away.items()
    ]
    if shortcuts.fields and shortcuts.interval[0] > shortcuts.majority + _MUCH * (1 - shortcuts.majority):
        found.append(Finding(METADATA_CHECK, INFO, 1, (), _together(shortcuts)))
    return tuple(found)


def _together(shortcuts: Shortcuts) -> str:
    low, high = shortcuts.interval
    best = shortcuts.fields[0]
    return (
        f"Size, format, brightness, sharpness and the border's colour alone give the right class for "
        f"{shortcuts.accuracy:.0%} of {shortcuts.num_images:,} images ({low:.0%} to {high:.0%}), the most "
        f"frequent class for {shortcuts.majority:.0%}. The best single clue is the {best.field} of "
        f"'{best.label}': {best.found:.0%} of its images, {best.mistaken:.1%} of the others. Part of what "
        "a model scores here may be how the images were taken; test it on images taken elsewhere."
    )


def _message(label: str, ways: Sequence[Shortcut]) -> str:
    best = ways[0]
    low, high = best.interval
    also = f" (also by {', '.join(way.field for way in ways[1:])})" if len(ways) > 1 else ""
    return (
        f"Class '{label}' can be told by its {best.field} alone{also}: {100 * best.found:.0f}% of its "
        f"images and {100 * best.mistaken:.1f}% of the others, without looking at what they show (the "
        f"difference is {100 * low:.0f} to {100 * high:.0f} points). A model would learn that; add images "
        "of this class that were made as the others were."
    )


def _chosen(
    rows: pd.DataFrame, groups: Mapping[str, str] | None, settings: ShortcutSettings
) -> tuple[Ints, list[str], Ints, Ints]:
    """Labels as numbers, their names, groups, and which rows: of classes with enough groups."""
    names, labels = np.unique(rows["label"].to_numpy(dtype=np.str_), return_inverse=True)
    group = group_numbers(list(rows["id"]), groups)
    chosen = np.arange(len(rows))
    if len(chosen) > settings.max_images:
        chosen = np.random.default_rng(settings.seed).choice(len(chosen), settings.max_images, replace=False)
        chosen.sort()
    enough = enough_groups(labels[chosen], group[chosen], len(names), settings.folds)
    chosen = chosen[enough[labels[chosen]]]
    kept, numbers = np.unique(labels[chosen], return_inverse=True)
    return numbers, [str(names[i]) for i in kept], group[chosen], chosen


def _features(rows: pd.DataFrame, edges: Floats | None) -> dict[str, Floats]:
    """What each field's tree sees, float (N, K); words become numbers, nan is -1."""
    found: dict[str, Floats] = {}
    for field, columns in FIELDS.items():
        values = [_numbers(rows[column].to_numpy(dtype=object)) for column in columns if column in rows]
        if values:
            found[field] = np.column_stack(values)
    if edges is not None:
        found[BORDER] = np.nan_to_num(edges, nan=-1.0)
    return found


def _numbers(values: npt.NDArray[Any]) -> Floats:
    if all(isinstance(value, int | float | np.number) for value in values):
        return np.nan_to_num(values.astype(np.float64), nan=-1.0)
    return np.unique(values.astype(np.str_), return_inverse=True)[1].astype(np.float64)


def _predicted(
    values: Floats, labels: Ints, folds: list[tuple[Ints, Ints]], seed: int, *, forest: bool = False
) -> Ints:
    """The class that a small model gives to each image that it has not seen, int (N,)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    found = np.empty(len(labels), np.int64)
    for seen, unseen in folds:
        if forest:
            model = RandomForestClassifier(50, min_samples_leaf=3, random_state=seed)
        else:
            leaves = min(256, 4 * (int(labels.max()) + 1))
            model = DecisionTreeClassifier(
                max_leaf_nodes=leaves, min_samples_leaf=3, class_weight="balanced", random_state=seed
            )
        found[unseen] = model.fit(values[seen], labels[seen]).predict(values[unseen])
    return found


def _told(
    field: str, labels: Ints, predicted: Ints, known: Sequence[str], settings: ShortcutSettings
) -> Iterable[Shortcut]:
    for index, label in enumerate(known):
        own = labels == index
        found, mistaken = float((predicted[own] == index).mean()), float((predicted[~own] == index).mean())
        interval = difference_interval(found, int(own.sum()), mistaken, int((~own).sum()))
        gives_away = interval[0] >= settings.min_informedness
        yield Shortcut(field, label, found - mistaken, interval, found, mistaken, gives_away)
