"""The training, validation and test splits.

A group, which is a set of near-duplicates, is in one split as a whole. When a class is split for the first
time, its groups with the smallest hashes go to the test split until that has its share, the next ones to the
validation split; the hashes where it stopped are the class's thresholds (stratify.py). From then on images
stay where they are, and new ones fall by the thresholds. A split that comes with the data is kept; only the
splits that it lacks are taken from its training split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pergola.components import digest
from pergola.components.artifacts.data import SPLITS, TEST, TRAIN, VALIDATION, Split, ValidationReport
from pergola.components.data import kept_split
from pergola.components.data.kept_split import Thresholds
from pergola.components.data.manifest import unique_images
from pergola.components.data.manifest.parquet import replaced
from pergola.components.data.manifest.unique_images import NO_IMAGE, NO_SPLIT, UniqueImages
from pergola.components.data.stratify import fall, stratify
from pergola.components.disk import explained
from pergola.components.errors import InputError
from pergola.components.records import setting

_TRAIN, _VALIDATION, _TEST = range(3)  # indices of SPLITS
_STAYS = 9  # the cost of a group with old images, which does not move


@dataclass(frozen=True)
class SplitSettings:
    """How large the splits are, where the data does not come with them."""

    validation: float = setting(0.15, "share of the images for validation", low=0.01, high=0.5)
    test: float = setting(0.15, "share of the images for testing", low=0.01, high=0.5)
    seed: int = setting(0, "another seed gives another split", low=0)


def split(
    manifest_folder: Path,
    report: ValidationReport,
    out: Path,
    settings: SplitSettings,
    *,
    previous: Path | None = None,
) -> Split:
    """The split of a manifest's readable images that are not quarantined, written to `out`.

    A class that is split for the first time has a group in every split. Of copies that the data puts into
    several splits, the test split takes precedence, then the validation split.
    previous: folder of an earlier split with the same settings. Its images stay in their splits, those that
    were gone in between too, and a new image goes to its group's split (to training, when it connects groups
    of different splits).
    Raises InputError for a new class with fewer groups than there are splits to fill, and for one without an
    image to train on.
    """
    images = unique_images.read(manifest_folder, report.quarantined)
    if not len(images.ids):
        raise InputError("The checks excluded all images: see the validation report.")
    rule = digest.of_data([settings.seed, settings.validation, settings.test])
    groups = _Groups.of(images, report.groups)
    assignment = _Assignment(
        labels=images.label,
        groups=groups.numbers,
        names=list(images.labels),
        order=groups.hashes(settings.seed),
        created=tuple(split for split in (_TEST, _VALIDATION) if not (images.given == split).any()),
    )
    fixed = np.where(images.given == _TRAIN, NO_SPLIT, images.given)
    earlier = kept_split.read(previous, rule)
    old = earlier.splits_of(images)
    splits, thresholds = assignment.splits(fixed, old, settings, earlier.thresholds)
    assignment.fill_gaps(splits, fixed, old)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        kept_split.write_absent(earlier, images, out)
        return _save(images, groups, splits, thresholds, manifest_folder, out, rule)


@dataclass(frozen=True)
class _Groups:
    """Each image's group, named by an image's number, or by a number beyond them for any other name."""

    images: UniqueImages
    numbers: np.ndarray  # int64 (N,)
    others: tuple[str, ...]

    @classmethod
    def of(cls, images: UniqueImages, named: Mapping[str, str]) -> _Groups:
        numbers = np.arange(len(images.ids))
        others: dict[str, int] = {}
        for id, group in named.items():
            member, leader = images.find(
                np.array([unique_images.raw(id), unique_images.raw(group)], "S32")
            ).tolist()
            if member != NO_IMAGE and leader == NO_IMAGE:
                numbers[member] = len(numbers) + others.setdefault(group, len(others))
            elif member != NO_IMAGE:
                numbers[member] = leader
        return cls(images, numbers, tuple(others))

    def name(self, number: int) -> str:
        count = len(self.numbers)
        return self.images.hex(number) if number < count else self.others[number - count]

    def hashes(self, seed: int) -> np.ndarray:
        """A number in [0, 1) per group, from the first 53 bits of a SHA-256."""

        def fraction(number: int) -> float:
            raw = hashlib.sha256(f"{seed}\0{self.name(number)}".encode()).digest()
            return (int.from_bytes(raw[:8], "big") >> 11) / (1 << 53)

        count = len(self.numbers) + len(self.others)
        return np.fromiter(map(fraction, range(count)), np.float64, count)


@dataclass(frozen=True)
class _Assignment:
    """Labels and groups of the images as numbers, and the rules that assign splits to them.

    labels, groups: int64 (N,), indices.  order: float64 (groups,), each group's hash in [0, 1).
    created: the splits that the data does not come with.
    Splits, as arguments and results, are int64 (N,), indices of SPLITS or NO_SPLIT.
    """

    labels: np.ndarray
    groups: np.ndarray
    names: list[str]
    order: np.ndarray
    created: tuple[int, ...]

    def splits(
        self, fixed: np.ndarray, old: np.ndarray, settings: SplitSettings, kept: Thresholds
    ) -> tuple[np.ndarray, Thresholds]:
        """Each image's split: the given one, else the earlier one, else by the hash. And the thresholds."""
        hashed, thresholds = self._by_hash(fixed == NO_SPLIT, settings, kept)
        old = np.where(np.isin(old, (_TRAIN, *self.created)), old, NO_SPLIT)
        for split in (_TEST, _VALIDATION, _TRAIN):  # the last one wins
            hashed[self.groups[(old == split) & (fixed == NO_SPLIT)]] = split
        splits = np.where(old != NO_SPLIT, old, hashed[self.groups])
        return np.where(fixed != NO_SPLIT, fixed, splits), thresholds

    def _by_hash(
        self, free: np.ndarray, settings: SplitSettings, kept: Thresholds
    ) -> tuple[np.ndarray, Thresholds]:
        """The split of each group, int64 (groups,), by the thresholds of the class that owns it."""
        splits, thresholds = np.full(len(self.order), _TRAIN), dict(kept)
        sizes = np.bincount(self.groups[free], minlength=len(self.order))
        wanted = {_VALIDATION: settings.validation, _TEST: settings.test}
        shares = {split: wanted[split] for split in self.created}
        owners = self._owners(free)
        by_owner = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[by_owner], np.arange(len(self.names) + 1))
        for label, name in enumerate(self.names) if self.created else ():
            mine = by_owner[starts[label] : starts[label + 1]]
            if kept.get(name, {}).keys() == {SPLITS[split] for split in self.created}:
                limits = {SPLITS.index(split): value for split, value in kept[name].items()}
                splits[mine] = fall(self.order[mine], limits, _TRAIN)
            elif len(mine):
                splits[mine], limits = stratify(self.order[mine], sizes[mine], shares, _TRAIN)
                thresholds[name] = {SPLITS[split]: value for split, value in limits.items()}
        return splits, thresholds

    def _owners(self, free: np.ndarray) -> np.ndarray:
        """The class that has most of each group's free images, int64 (groups,); -1 for groups without any."""
        pairs, counts = np.unique(
            np.stack([self.groups[free], self.labels[free]]), axis=1, return_counts=True
        )
        owners = np.full(len(self.order), -1)
        by_count = np.lexsort((-pairs[1], counts))  # of equal counts, the first class comes last
        owners[pairs[0][by_count]] = pairs[1][by_count]
        return owners

    def fill_gaps(self, splits: np.ndarray, fixed: np.ndarray, old: np.ndarray) -> None:
        """Move a group without old images into each split that lacks a class; changes `splits`.

        A class that was split before may stay without validation or test images.
        """
        free = fixed == NO_SPLIT
        pairs = np.unique(np.stack([self.groups, self.labels]), axis=1)[0]
        spanning = pairs[1:][pairs[1:] == pairs[:-1]]
        cost = np.isin(np.arange(len(self.order)), spanning).astype(int)  # groups of a single class are best
        cost[self.groups[old != NO_SPLIT]] = _STAYS
        counts = self._counts(splits, free)
        # A group of several classes may leave a gap behind when it moves: hence the second round.
        for label, name in [*enumerate(self.names)] * 2:
            if counts[label, [_TRAIN, *self.created]].all():
                continue
            mine = free & (self.labels == label)
            is_new = not (mine & (old != NO_SPLIT)).any()
            for split in (_TRAIN, *self.created):
                if (splits[mine] == split).any():
                    continue
                if is_new:
                    self._require(name, len(np.unique(self.groups[mine])))
                if not self._move_one(splits, mine, split, cost) and split == _TRAIN:
                    raise InputError(
                        f"Class '{name}' has no image to train on: all of its images are in the validation "
                        "and test splits of earlier runs. Add images, or set another split.seed, which "
                        "splits everything anew."
                    )
            counts = self._counts(splits, free)

    def _counts(self, splits: np.ndarray, free: np.ndarray) -> np.ndarray:
        """How many free images each class has in each split, int64 (classes, splits)."""
        size = len(self.names), len(SPLITS)
        places = np.ravel_multi_index((self.labels[free], splits[free]), size)
        return np.bincount(places, minlength=size[0] * size[1]).reshape(size)

    def _require(self, name: str, count: int) -> None:
        wanted = 1 + len(self.created)
        if count < wanted:
            raise InputError(
                f"Class '{name}' has too few images to split: {count} that are not copies of each other, "
                f"expected at least {wanted}. Add images, or remove the class."
            )

    def _move_one(self, splits: np.ndarray, mine: np.ndarray, split: int, cost: np.ndarray) -> bool:
        """Move the cheapest group of a class from a split that keeps another one, preferably the fullest.

        False: there is none that may move.
        """
        held = {s: np.unique(self.groups[mine & (splits == s)]).tolist() for s in (_TRAIN, *self.created)}
        choices = [
            (cost[group], -len(groups), self.order[group], group, donor)
            for donor, groups in held.items()
            if len(groups) > 1
            for group in groups
            if cost[group] != _STAYS
        ]
        if not choices:
            return False
        *_, group, donor = min(choices)
        splits[(self.groups == group) & (splits == donor)] = split
        return True


def _save(
    images: UniqueImages,
    groups: _Groups,
    splits: np.ndarray,
    thresholds: Thresholds,
    folder: Path,
    out: Path,
    rule: str,
) -> Split:
    import pyarrow as pa
    import pyarrow.parquet

    names = ("id", "path", "label", "split", "group")
    schema = pa.schema([(name, pa.string()) for name in names], metadata={kept_split.RULE: rule.encode()})
    by_row = np.argsort(images.row)
    with (
        replaced(out / "split.parquet") as partial,
        pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        for block, paths in unique_images.paths(folder, images.row[by_row]):
            columns = _columns(images, groups, splits, paths, by_row[block].tolist())
            arrays = [pa.array(column, pa.string()) for column in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    result = _result(images, splits, thresholds)
    result.save(out)
    return result


def _columns(
    images: UniqueImages, groups: _Groups, splits: np.ndarray, paths: list[str], some: list[int]
) -> tuple[list[str], ...]:
    return (
        [images.hex(n) for n in some],
        paths,
        [images.labels[images.label[n]] for n in some],
        [SPLITS[splits[n]] for n in some],
        [groups.name(groups.numbers[n]) for n in some],
    )


def _result(images: UniqueImages, splits: np.ndarray, thresholds: Thresholds) -> Split:
    counts = np.zeros((len(SPLITS), len(images.labels)), np.int64)
    np.add.at(counts, (splits, images.label), 1)
    labels = images.labels
    rows = ((images.hex(n), labels[images.label[n]], SPLITS[splits[n]]) for n in range(len(splits)))
    return Split(
        counts={split: int(mine.sum()) for split, mine in zip(SPLITS, counts, strict=True)},
        by_label={
            split: {label: int(n) for label, n in zip(labels, mine, strict=True) if n}
            for split, mine in zip(SPLITS, counts, strict=True)
        },
        fingerprint=digest.of_rows(rows),
        thresholds=thresholds,
    )


assert (SPLITS[_TRAIN], SPLITS[_VALIDATION], SPLITS[_TEST]) == (TRAIN, VALIDATION, TEST)
