"""The training, validation and test splits.

An image's split depends on a hash of its group, where a group is a set of near-duplicates. So copies are
never in two splits, the same data always give the same split, and adding data leaves old images where they
were. A split that comes with the data is kept; only the splits that it lacks are taken from its training
split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pergola.components import digest
from pergola.components.artifacts.data import SPLITS, TEST, TRAIN, VALIDATION, Split, ValidationReport
from pergola.components.data.manifest import unique_images
from pergola.components.data.manifest.unique_images import NO_IMAGE, NO_SPLIT, UniqueImages
from pergola.components.disk import explained
from pergola.components.errors import InputError
from pergola.components.records import setting

_TRAIN, _VALIDATION, _TEST = range(3)  # indices of SPLITS
_RULE = b"pergola.rule"


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

    Every class has a group in every split. Of copies that the data puts into several splits, the test split
    takes precedence, then the validation split.
    previous: folder of an earlier split with the same settings. Its images stay in their splits, and a new
    image goes to its group's split (to training, when it connects groups of different splits).
    Raises InputError for a class with fewer groups than there are splits to fill.
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
    old = _earlier_splits(images, previous, rule)
    splits = assignment.splits(fixed, old, settings)
    assignment.fill_gaps(splits, fixed, old)
    return _save(images, groups, splits, manifest_folder, out, rule)


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

    def splits(self, fixed: np.ndarray, old: np.ndarray, settings: SplitSettings) -> np.ndarray:
        """Each image's split: the given one, else the earlier one, else by the hash."""
        hashed = np.full(len(self.order), _TRAIN)
        if _VALIDATION in self.created:
            hashed[self.order < settings.test + settings.validation] = _VALIDATION
        if _TEST in self.created:
            hashed[self.order < settings.test] = _TEST
        elif _VALIDATION in self.created:
            hashed[self.order < settings.test] = _TRAIN
        old = np.where(np.isin(old, (_TRAIN, *self.created)), old, NO_SPLIT)
        for split in (_TEST, _VALIDATION, _TRAIN):  # the last one wins
            hashed[self.groups[(old == split) & (fixed == NO_SPLIT)]] = split
        splits = np.where(old != NO_SPLIT, old, hashed[self.groups])
        return np.where(fixed != NO_SPLIT, fixed, splits)

    def fill_gaps(self, splits: np.ndarray, fixed: np.ndarray, old: np.ndarray) -> None:
        """Move a group, new ones first, into each split that lacks a class; changes `splits`."""
        free = fixed == NO_SPLIT
        pairs = np.unique(np.stack([self.groups, self.labels]), axis=1)[0]
        spanning = pairs[1:][pairs[1:] == pairs[:-1]]
        # It is best to move groups without old images, and among them groups of a single class.
        cost = np.isin(np.arange(len(self.order)), spanning).astype(int)
        cost[self.groups[free & (old != NO_SPLIT)]] += 2
        # A group of several classes may leave a gap behind when it moves: hence the second round.
        for label, name in [*enumerate(self.names)] * 2:
            mine = free & (self.labels == label)
            for split in (_TRAIN, *self.created):
                if not (splits[mine] == split).any():
                    self._require(name, len(np.unique(self.groups[mine])))
                    self._move_one(splits, mine, split, cost)

    def _require(self, name: str, count: int) -> None:
        wanted = 1 + len(self.created)
        if count < wanted:
            raise InputError(
                f"Class '{name}' has too few images to split: {count} that are not copies of each other, "
                f"expected at least {wanted}. Add images, or remove the class."
            )

    def _move_one(self, splits: np.ndarray, mine: np.ndarray, split: int, cost: np.ndarray) -> None:
        """Move the cheapest group of a class from a split that keeps another one, preferably the fullest."""
        held = {s: np.unique(self.groups[mine & (splits == s)]).tolist() for s in (_TRAIN, *self.created)}
        choices = [
            (cost[group], -len(groups), self.order[group], group, donor)
            for donor, groups in held.items()
            if len(groups) > 1
            for group in groups
        ]
        *_, group, donor = min(choices)
        splits[(self.groups == group) & (splits == donor)] = split


def _earlier_splits(images: UniqueImages, previous: Path | None, rule: str) -> np.ndarray:
    """Each image's earlier split; NO_SPLIT for new ones, and for all when the settings have changed."""
    import pyarrow.parquet

    file = previous / "split.parquet" if previous else None
    if file is None or not file.is_file():
        return np.full(len(images.ids), NO_SPLIT)
    if (pyarrow.parquet.read_schema(file).metadata or {}).get(_RULE) != rule.encode():
        return np.full(len(images.ids), NO_SPLIT)
    return unique_images.earlier_splits(file, images)


def _save(
    images: UniqueImages, groups: _Groups, splits: np.ndarray, folder: Path, out: Path, rule: str
) -> Split:
    import pyarrow as pa
    import pyarrow.parquet

    names = ("id", "path", "label", "split", "group")
    schema = pa.schema([(name, pa.string()) for name in names], metadata={_RULE: rule.encode()})
    by_row = np.argsort(images.row)
    partial = out / ".split.parquet.partial"
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            with pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
                for block, paths in unique_images.paths(folder, images.row[by_row]):
                    columns = _columns(images, groups, splits, paths, by_row[block].tolist())
                    arrays = [pa.array(column, pa.string()) for column in columns]
                    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            os.replace(partial, out / "split.parquet")
        finally:
            partial.unlink(missing_ok=True)
        result = _result(images, splits)
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


def _result(images: UniqueImages, splits: np.ndarray) -> Split:
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
    )


assert (SPLITS[_TRAIN], SPLITS[_VALIDATION], SPLITS[_TEST]) == (TRAIN, VALIDATION, TEST)
