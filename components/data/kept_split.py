"""What a split keeps of the one before: where images were, also those that are gone, and the thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pergola.components.artifacts.data import Split
from pergola.components.data.manifest import unique_images
from pergola.components.data.manifest.parquet import replaced, rows
from pergola.components.data.manifest.unique_images import NO_IMAGE, NO_SPLIT, UniqueImages

Thresholds = Mapping[str, Mapping[str, float]]  # label -> split -> upper threshold
RULE = b"pergola.rule"  # key of the settings' digest in the metadata of split.parquet
ABSENT = "earlier.parquet"


@dataclass(frozen=True)
class Earlier:
    """The split before. files: with columns id and split, the newest first."""

    files: tuple[Path, ...] = ()
    thresholds: Thresholds = field(default_factory=dict)

    def splits_of(self, images: UniqueImages) -> np.ndarray:
        """Each image's split, int8 (N,); NO_SPLIT for new ones."""
        found = np.full(len(images.ids), NO_SPLIT, np.int8)
        for file in reversed(self.files):
            there = unique_images.earlier_splits(file, images)
            found = np.where(there != NO_SPLIT, there, found)
        return found


def read(folder: Path | None, rule: str) -> Earlier:
    """The split in a folder; an empty one if there is none, or if its settings were others."""
    import pyarrow.parquet

    file = folder / "split.parquet" if folder else None
    if file is None or not file.is_file():
        return Earlier()
    if (pyarrow.parquet.read_schema(file).metadata or {}).get(RULE) != rule.encode():
        return Earlier()
    files = tuple(one for one in (file, file.with_name(ABSENT)) if one.is_file())
    return Earlier(files, Split.load(file.parent).thresholds)


def write_absent(earlier: Earlier, images: UniqueImages, out: Path) -> None:
    """Keep where images were that are not among `images`: if they come back, they come back there."""
    import pyarrow as pa
    import pyarrow.parquet

    absent: dict[str, str] = {}
    for file in earlier.files:
        known = list(rows(file, ["id", "split"]))
        places = images.find(np.array([unique_images.raw(id) for id, _ in known], "S32"))
        for (id, split), place in zip(known, places.tolist(), strict=True):
            if place == NO_IMAGE:
                absent.setdefault(id, split)
    if absent:
        with replaced(out / ABSENT) as partial:
            table = pa.table({"id": sorted(absent), "split": [absent[id] for id in sorted(absent)]})
            pyarrow.parquet.write_table(table, partial, compression="zstd")
