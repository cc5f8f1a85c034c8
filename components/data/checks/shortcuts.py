"""Check: classes that can be predicted without looking at what an image shows.

A model takes the easiest way: when all images of a class were taken with one camera or have the same border,
it learns that. So a small decision tree predicts the classes, out of fold, from each single field of the
manifest and from the colour of the border. Where it predicts a class almost perfectly, the field is a
shortcut (Geirhos et al. 2020, "Shortcut learning in deep neural networks").

How well a class is predicted is its informedness (Youden 1950): the share of its own images that are
predicted as the class minus the share of all others that are; 0 is chance, 1 is perfect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.artifacts.record import Record
from pergola.components.data.checks.facts import CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.records import setting
from pergola.components.stats.cross_validation import enough_groups, group_folds, group_numbers
from pergola.components.stats.metrics import difference_interval, wilson_interval

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

CHECK, METADATA_CHECK = "shortcut", "metadata"
_MIN_EXPLAINED = 0.25  # share of the majority class's errors that metadata must avoid to be reported
_MUCH_EXPLAINED = 0.5  # the same, to be a warning
BORDER = "border"
FIELDS: dict[str, tuple[str, ...]] = {
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "sharpness": ("sharpness",),
    "size": ("width", "height"),
    "bytes": ("bytes",),
    "format": ("format", "mode", "orientation"),
}  # name for people -> columns of the manifest
_EXAMPLES = 6  # images of a class that are shown


@dataclass(frozen=True)
class ShortcutSettings:
    """When a field gives a class away."""

    min_informedness: float = setting(
        0.75, "lower end of the 95% interval from which a field is a shortcut (0 is chance)", low=0.1, high=1
    )
    folds: int = setting(5, "folds of the cross-validation", low=2, high=20)
    max_images: int = setting(20_000, "images that are used, drawn at random", low=100)
    seed: int = setting(0, "seed of the folds and of the draw", low=0)


@dataclass(frozen=True)
class Shortcut:
    """How well one field alone predicts one class."""

    field: str
    label: str
    informedness: float  # -1 to 1
    interval: tuple[float, float]  # 95%, Newcombe
    found: float  # share of the class's images that are predicted as the class
    mistaken: float  # share of all other images that are
    gives_away: bool


@dataclass(frozen=True)
class Shortcuts(Record):
    """What metadata alone predict."""

    FILE: ClassVar[str] = "shortcuts.json"

    num_images: int
    accuracy: float  # of a small random forest on all fields together, out of fold
    interval: tuple[float, float]  # 95%, Wilson
    majority: float  # share of the most frequent class
    fields: tuple[Shortcut, ...]  # best field and class first


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding per class that is given away, and one when metadata alone predict much."""
    features = facts.features
    if features is None:
        return CheckResult()
    columns = [column for columns in FIELDS.values() for column in columns]
    table = facts.table(["id", *columns]).iloc[features.rows].assign(label=features.labels)
    shortcuts = find_shortcuts(table, features.borders, facts.groups)
    examples: dict[str, list[str]] = {}
    for label, path in zip(features.labels, features.paths, strict=True):
        examples.setdefault(label, []).append(path)
    first = {label: paths[:_EXAMPLES] for label, paths in examples.items()}
    return CheckResult(findings(shortcuts, first), shortcuts)


def find_shortcuts(
    rows: pd.DataFrame,
    borders: Floats | None = None,
    groups: Mapping[str, str] | None = None,
    settings: ShortcutSettings | None = None,
) -> Shortcuts:
    """How well each field predicts each class.

    rows: readable rows of the manifest, with id, label and the columns of FIELDS, or some of them.
    borders: `image_features.border_of` each image, float (N, 4), in the order of the rows.
    groups: id -> group, for near-duplicates; a group is never in training and test folds at once.
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
        for shortcut in _shortcuts(
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


def findings(
    shortcuts: Shortcuts, examples: Mapping[str, Sequence[str]] | None = None
) -> tuple[Finding, ...]:
    """One finding per class that is given away, and one on metadata as a whole.

    examples: class -> paths of some of its images, to be shown.  The last finding is only given where
    metadata predict better than the majority class would, with 95% confidence; a warning where much better.
    """
    given_away: dict[str, list[Shortcut]] = {}
    for shortcut in shortcuts.fields:
        if shortcut.gives_away:
            given_away.setdefault(shortcut.label, []).append(shortcut)
    paths = {label: tuple((examples or {}).get(label, ())) for label in given_away}
    found = [
        Finding(CHECK, WARNING, 1, paths[label], _message(label, ways)) for label, ways in given_away.items()
    ]
    explained = (shortcuts.interval[0] - shortcuts.majority) / max(1 - shortcuts.majority, 1e-9)
    if shortcuts.fields and explained > _MIN_EXPLAINED:
        severity = WARNING if explained > _MUCH_EXPLAINED else INFO
        found.append(Finding(METADATA_CHECK, severity, 1, (), _all_metadata(shortcuts)))
    return tuple(found)


def _all_metadata(shortcuts: Shortcuts) -> str:
    low, high = shortcuts.interval
    best = shortcuts.fields[0]
    return (
        f"Size, format, brightness, sharpness and the border's colour alone predict the class of "
        f"{shortcuts.accuracy:.0%} of {shortcuts.num_images:,} images ({low:.0%} to {high:.0%}); the most "
        f"frequent class is right for {shortcuts.majority:.0%}. The best single field is the {best.field} of "
        f"'{best.label}': {best.found:.0%} of its images, {best.mistaken:.1%} of the others. Part of a "
        "model's accuracy here may come from how the images were taken; test it on images taken elsewhere."
    )


def _message(label: str, ways: Sequence[Shortcut]) -> str:
    best = ways[0]
    low, high = best.interval
    also = f" (also by {', '.join(way.field for way in ways[1:])})" if len(ways) > 1 else ""
    return (
        f"Class '{label}' can be predicted by its {best.field} alone{also}: {100 * best.found:.0f}% of its "
        f"images and {100 * best.mistaken:.1f}% of the others, without looking at what they show (the "
        f"difference is {100 * low:.0f} to {100 * high:.0f} points). A model would learn that: add images "
        "of this class that were taken like the others."
    )


def _chosen(
    rows: pd.DataFrame, groups: Mapping[str, str] | None, settings: ShortcutSettings
) -> tuple[Ints, list[str], Ints, Ints]:
    """Labels as numbers, their names, groups, and the row numbers, of classes with enough groups."""
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
    """The input of each field's tree, float (N, K); texts become numbers, nan becomes -1."""
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
    """The class that a small model predicts for each image out of fold, int (N,)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    found = np.empty(len(labels), np.int64)
    for train, test in folds:
        if forest:
            model = RandomForestClassifier(50, min_samples_leaf=3, random_state=seed)
        else:
            leaves = min(256, 4 * (int(labels.max()) + 1))
            model = DecisionTreeClassifier(
                max_leaf_nodes=leaves, min_samples_leaf=3, class_weight="balanced", random_state=seed
            )
        found[test] = model.fit(values[train], labels[train]).predict(values[test])
    return found


def _shortcuts(
    field: str, labels: Ints, predicted: Ints, known: Sequence[str], settings: ShortcutSettings
) -> Iterable[Shortcut]:
    for index, label in enumerate(known):
        own = labels == index
        found, mistaken = float((predicted[own] == index).mean()), float((predicted[~own] == index).mean())
        interval = difference_interval(found, int(own.sum()), mistaken, int((~own).sum()))
        gives_away = interval[0] >= settings.min_informedness
        yield Shortcut(field, label, found - mistaken, interval, found, mistaken, gives_away)
