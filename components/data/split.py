"""Which picture is for training, which for validation, which for testing.

A picture's part follows from a hash of its group, where a group is a set of near-duplicates: so copies
never lie on two sides, the same data give the same split everywhere, and more data leave the old
pictures where they were. A split that the data brings is kept, and only what it lacks is cut from its
training part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components import digest
from components.artifacts import PARTS, TEST, TRAIN, VALIDATION, Manifest, Split, ValidationReport
from components.data.disk import explained
from components.errors import InputError
from components.records import setting

if TYPE_CHECKING:
    import pandas as pd

_TRAIN, _VALIDATION, _TEST = range(3)  # places in PARTS
_NONE = -1
_RULE = b"pergola.rule"


@dataclass(frozen=True)
class SplitSettings:
    """How large the parts are, where the data does not say."""

    validation: float = setting(0.15, "share of the pictures for validation", low=0.01, high=0.5)
    test: float = setting(0.15, "share of the pictures for testing", low=0.01, high=0.5)
    seed: int = setting(0, "another seed gives another split", low=0)


def split(
    manifest_folder: Path,
    report: ValidationReport,
    out: Path,
    settings: SplitSettings,
    *,
    previous: Path | None = None,
) -> Split:
    """The split of a manifest's readable pictures that are not quarantined, written to `out`.

    Every class has a group in every part. Of copies that the data puts into several parts the one for testing
    counts, then the one for validation.
    previous: folder of an earlier split with the same settings; its pictures stay in their parts, and a new
    picture goes to its group's part (to training, when it joins groups of different parts).
    Raises InputError for a class with fewer groups than there are parts to fill.
    """
    rows = _pictures(manifest_folder, report)
    rule = digest.of_data([settings.seed, settings.validation, settings.test])
    labels, names = _factorised(rows["label"])
    groups, group_names = _factorised(rows["group"])
    given = rows["given"].to_numpy()
    places = _Places(
        labels=labels,
        groups=groups,
        names=list(names),
        order=_hashes(group_names, settings.seed),
        cut=tuple(part for part in (_TEST, _VALIDATION) if not (given == part).any()),
    )
    fixed = np.where((given == _TRAIN) | (given == _NONE), _NONE, given)
    old = _earlier_parts(rows["id"], previous, rule)
    parts = places.parts(fixed, old, settings)
    places.fill_gaps(parts, fixed, old)
    return _save(rows, parts, out, rule)


@dataclass(frozen=True)
class _Places:
    """Labels and groups of the pictures as numbers, and the rules by which they get a part.

    labels, groups: int64 (N,), indices.  order: float64 (groups,), each group's hash in [0, 1).
    cut: parts that the data does not bring.  Parts below are int64 (N,), indices in PARTS or _NONE.
    """

    labels: np.ndarray
    groups: np.ndarray
    names: list[str]
    order: np.ndarray
    cut: tuple[int, ...]

    def parts(self, fixed: np.ndarray, old: np.ndarray, settings: SplitSettings) -> np.ndarray:
        """A part for every picture: what the data says, else what it was, else what the hash says."""
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
        # Best to move are groups without old pictures, and among them those of one class.
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
                f"Class '{name}' has too few pictures to split: {count} that are not copies of each other, "
                f"wanted at least {wanted}. Add pictures, or take the class out."
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


def _pictures(folder: Path, report: ValidationReport) -> pd.DataFrame:
    """A row a distinct picture, by path: id, path, label, given (index in PARTS or _NONE), group."""
    rows = Manifest.table(folder, columns=["path", "label", "given_split", "id", "reason"])
    rows = rows[rows["reason"].isna() & ~rows["path"].isin(list(report.quarantined))]
    given = rows["given_split"].map({part: place for place, part in enumerate(PARTS)}).fillna(_NONE)
    rows = rows[["id", "path", "label"]].assign(given=given.astype(np.int64))
    if rows.empty:
        raise InputError("No picture is left after the checks: see the report of the validation.")
    rows["given"] = rows.groupby("id", sort=False)["given"].transform("max")
    rows = rows.drop_duplicates("id").reset_index(drop=True)
    rows["group"] = rows["id"].map(lambda id: report.groups.get(id, id))
    return rows


def _factorised(column: Any) -> tuple[np.ndarray, Any]:
    import pandas as pd

    codes, names = pd.factorize(column, sort=True)
    return np.asarray(codes, np.int64), names


def _hashes(groups: Any, seed: int) -> np.ndarray:
    """A number in [0, 1) a group, from the first 53 bits of a SHA-256."""

    def fraction(group: str) -> float:
        raw = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
        return (int.from_bytes(raw[:8], "big") >> 11) / (1 << 53)

    return np.fromiter((fraction(group) for group in groups), np.float64, len(groups))


def _earlier_parts(ids: Any, previous: Path | None, rule: str) -> np.ndarray:
    """The part of each picture in the earlier split; _NONE for new ones, and for all under another rule."""
    import pyarrow.parquet

    file = previous / "split.parquet" if previous else None
    if file is None or not file.is_file():
        return np.full(len(ids), _NONE)
    if (pyarrow.parquet.read_schema(file).metadata or {}).get(_RULE) != rule.encode():
        return np.full(len(ids), _NONE)
    earlier = Split.table(file.parent, columns=["id", "part"]).set_index("id")["part"]
    places = earlier.map({part: place for place, part in enumerate(PARTS)})
    return np.asarray(ids.map(places).fillna(_NONE), np.int64)


def _save(rows: pd.DataFrame, parts: np.ndarray, out: Path, rule: str) -> Split:
    import pyarrow as pa
    import pyarrow.parquet

    rows = rows.assign(part=np.asarray(PARTS, object)[parts])
    columns = {name: pa.array(rows[name], pa.string()) for name in ("id", "path", "label", "part", "group")}
    table = pa.table(columns).replace_schema_metadata({_RULE: rule.encode()})
    by_label = {
        part: {str(label): int(n) for label, n in mine.value_counts().sort_index().items()}
        for part, mine in ((part, rows["label"][parts == place]) for place, part in enumerate(PARTS))
    }
    ordered = rows.sort_values("id")[["id", "label", "part"]].itertuples(index=False)
    result = Split(
        counts={part: sum(by_label[part].values()) for part in PARTS},
        by_label=by_label,
        fingerprint=digest.of_rows(ordered),
    )
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, out / "split.parquet", compression="zstd")
        result.save(out)
    return result


assert (PARTS[_TRAIN], PARTS[_VALIDATION], PARTS[_TEST]) == (TRAIN, VALIDATION, TEST)
