"""Which image is for training, which for validation, which for testing.

An image's part follows from a hash of its group, where a group is a set of near-duplicates: so copies
never lie on two sides, the same data give the same split everywhere, and more data leave the old
images where they were. A split that the data brings is kept, and only what it lacks is cut from its
training part.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pergola.components import digest
from pergola.components.artifacts.data import PARTS, TEST, TRAIN, VALIDATION, Split, ValidationReport
from pergola.components.data.manifest import unique_images
from pergola.components.data.manifest.unique_images import Distinct
from pergola.components.disk import explained
from pergola.components.errors import InputError
from pergola.components.records import setting

_TRAIN, _VALIDATION, _TEST = range(3)  # places in PARTS
_NONE = unique_images.NO_PART
_RULE = b"pergola.rule"


@dataclass(frozen=True)
class SplitSettings:
    """How large the parts are, where the data does not say."""

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

    Every class has a group in every part. Of copies that the data puts into several parts the one for testing
    counts, then the one for validation.
    previous: folder of an earlier split with the same settings; its images stay in their parts, and a new
    image goes to its group's part (to training, when it joins groups of different parts).
    Raises InputError for a class with fewer groups than there are parts to fill.
    """
    images = unique_images.read(manifest_folder, report.quarantined)
    if not len(images.ids):
        raise InputError("No image is left after the checks: see the report of the validation.")
    rule = digest.of_data([settings.seed, settings.validation, settings.test])
    groups = _Groups.of(images, report.groups)
    places = _Places(
        labels=images.label,
        groups=groups.numbers,
        names=list(images.labels),
        order=groups.hashes(settings.seed),
        cut=tuple(part for part in (_TEST, _VALIDATION) if not (images.given == part).any()),
    )
    fixed = np.where(images.given == _TRAIN, _NONE, images.given)
    old = _earlier_parts(images, previous, rule)
    parts = places.parts(fixed, old, settings)
    places.fill_gaps(parts, fixed, old)
    return _save(images, groups, parts, manifest_folder, out, rule)


@dataclass(frozen=True)
class _Groups:
    """Each image's group: an image's place, or beyond them a group whose name is no image's id."""

    images: Distinct
    numbers: np.ndarray  # int64 (N,)
    others: tuple[str, ...]

    @classmethod
    def of(cls, images: Distinct, named: Mapping[str, str]) -> _Groups:
        numbers = np.arange(len(images.ids))
        others: dict[str, int] = {}
        for id, group in named.items():
            member, leader = images.places(
                np.array([unique_images.raw(id), unique_images.raw(group)], "S32")
            ).tolist()
            if member != _NONE and leader == _NONE:
                numbers[member] = len(numbers) + others.setdefault(group, len(others))
            elif member != _NONE:
                numbers[member] = leader
        return cls(images, numbers, tuple(others))

    def name(self, number: int) -> str:
        count = len(self.numbers)
        return self.images.hex(number) if number < count else self.others[number - count]

    def hashes(self, seed: int) -> np.ndarray:
        """A number in [0, 1) a group, from the first 53 bits of a SHA-256."""

        def fraction(number: int) -> float:
            raw = hashlib.sha256(f"{seed}\0{self.name(number)}".encode()).digest()
            return (int.from_bytes(raw[:8], "big") >> 11) / (1 << 53)

        count = len(self.numbers) + len(self.others)
        return np.fromiter(map(fraction, range(count)), np.float64, count)


@dataclass(frozen=True)
class _Places:
    """Labels and groups of the images as numbers, and the rules by which they get a part.

    labels, groups: int64 (N,), indices.  order: float64 (groups,), each group's hash in [0, 1).
    cut: parts that the data does not bring.  Parts below are int64 (N,), indices in PARTS or _NONE.
    """

    labels: np.ndarray
    groups: np.ndarray
    names: list[str]
    order: np.ndarray
    cut: tuple[int, ...]

    def parts(self, fixed: np.ndarray, old: np.ndarray, settings: SplitSettings) -> np.ndarray:
        """A part for every image: what the data says, else what it was, else what the hash says."""
        hashed = np.full(len(self.order), _TRAIN)
        if _VALIDATION in self.cut:
            hashed[self.order < settings.test + settings.validation] = _VALIDATION
        if _TEST in self.cut:
            hashed[self.order < settings.test] = _TEST
        elif _VALIDATION in self.cut:
            hashed[self.order < settings.test] = _TRAIN
        old = np.where(np.isin(old, (_TRAIN, *self.cut)), old, _NONE)
        for part in (_TEST, _VALIDATION, _TRAIN):  # the last one wins
            hashed[self.groups[(old == part) & (fixed == _NONE)]] = part
        parts = np.where(old != _NONE, old, hashed[self.groups])
        return np.where(fixed != _NONE, fixed, parts)

    def fill_gaps(self, parts: np.ndarray, fixed: np.ndarray, old: np.ndarray) -> None:
        """Move a group, new ones first, into each part that a class would miss; changes `parts`."""
        free = fixed == _NONE
        pairs = np.unique(np.stack([self.groups, self.labels]), axis=1)[0]
        spanning = pairs[1:][pairs[1:] == pairs[:-1]]
        # Best to move are groups without old images, and among them those of one class.
        cost = np.isin(np.arange(len(self.order)), spanning).astype(int)
        cost[self.groups[free & (old != _NONE)]] += 2
        # What spans classes moves whole and may leave a gap behind: so a second round.
        for label, name in [*enumerate(self.names)] * 2:
            mine = free & (self.labels == label)
            for part in (_TRAIN, *self.cut):
                if not (parts[mine] == part).any():
                    self._require(name, len(np.unique(self.groups[mine])))
                    self._move_one(parts, mine, part, cost)

    def _require(self, name: str, count: int) -> None:
        wanted = 1 + len(self.cut)
        if count < wanted:
            raise InputError(
                f"Class '{name}' has too few images to split: {count} that are not copies of each other, "
                f"wanted at least {wanted}. Add images, or take the class out."
            )

    def _move_one(self, parts: np.ndarray, mine: np.ndarray, part: int, cost: np.ndarray) -> None:
        """Take the cheapest group from a part that keeps another one of the class, best from the fullest."""
        held = {p: np.unique(self.groups[mine & (parts == p)]).tolist() for p in (_TRAIN, *self.cut)}
        choices = [
            (cost[group], -len(groups), self.order[group], group, donor)
            for donor, groups in held.items()
            if len(groups) > 1
            for group in groups
        ]
        *_, group, donor = min(choices)
        parts[(self.groups == group) & (parts == donor)] = part


def _earlier_parts(images: Distinct, previous: Path | None, rule: str) -> np.ndarray:
    """The part of each image in the earlier split; _NONE for new ones, and for all under another rule."""
    import pyarrow.parquet

    file = previous / "split.parquet" if previous else None
    if file is None or not file.is_file():
        return np.full(len(images.ids), _NONE)
    if (pyarrow.parquet.read_schema(file).metadata or {}).get(_RULE) != rule.encode():
        return np.full(len(images.ids), _NONE)
    return unique_images.earlier_parts(file, images)


def _save(images: Distinct, groups: _Groups, parts: np.ndarray, folder: Path, out: Path, rule: str) -> Split:
    import pyarrow as pa
    import pyarrow.parquet

    names = ("id", "path", "label", "part", "group")
    schema = pa.schema([(name, pa.string()) for name in names], metadata={_RULE: rule.encode()})
    by_row = np.argsort(images.row)
    partial = out / ".split.parquet.partial"
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        try:
            with pyarrow.parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
                for portion, paths in unique_images.paths(folder, images.row[by_row]):
                    columns = _columns(images, groups, parts, paths, by_row[portion].tolist())
                    arrays = [pa.array(column, pa.string()) for column in columns]
                    writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            os.replace(partial, out / "split.parquet")
        finally:
            partial.unlink(missing_ok=True)
        result = _result(images, parts)
        result.save(out)
    return result


def _columns(
    images: Distinct, groups: _Groups, parts: np.ndarray, paths: list[str], some: list[int]
) -> tuple[list[str], ...]:
    return (
        [images.hex(n) for n in some],
        paths,
        [images.labels[images.label[n]] for n in some],
        [PARTS[parts[n]] for n in some],
        [groups.name(groups.numbers[n]) for n in some],
    )


def _result(images: Distinct, parts: np.ndarray) -> Split:
    counts = np.zeros((len(PARTS), len(images.labels)), np.int64)
    np.add.at(counts, (parts, images.label), 1)
    labels = images.labels
    rows = ((images.hex(n), labels[images.label[n]], PARTS[parts[n]]) for n in range(len(parts)))
    return Split(
        counts={part: int(mine.sum()) for part, mine in zip(PARTS, counts, strict=True)},
        by_label={
            part: {label: int(n) for label, n in zip(labels, mine, strict=True) if n}
            for part, mine in zip(PARTS, counts, strict=True)
        },
        fingerprint=digest.of_rows(rows),
    )


assert (PARTS[_TRAIN], PARTS[_VALIDATION], PARTS[_TEST]) == (TRAIN, VALIDATION, TEST)
