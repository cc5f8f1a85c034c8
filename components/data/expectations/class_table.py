"""The table that expectations on classes apply to, see expectations.toml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.data.manifest.index import NO_IMAGE, ManifestIndex
from pergola.components.data.manifest.parquet import batches

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 25_000


def class_table(
    folder: Path,
    index: ManifestIndex,
    used: np.ndarray,
    labels: tuple[str, ...],
    expected_shares: Mapping[str, float],
) -> pd.DataFrame:
    """A row per class: label, images and groups in use, share of the largest class's images, and change.

    used: bool (rows,), the files that are not excluded.  change: the factor by which the class's share of all
    images differs from the expected one, 1 or more.
    An expected class that is missing gets a row without groups and share, so that no rule reports it as rare.
    """
    import pandas as pd

    pairs = _images_by_class(folder, index, used, labels)
    groups = np.unique(np.stack([pairs[:, 0], index.group[pairs[:, 1]]], axis=1), axis=0)
    num_images = np.bincount(pairs[:, 0], minlength=len(labels))
    num_groups = np.bincount(groups[:, 0], minlength=len(labels))
    share = num_images / max(1, num_images.max(initial=0))
    classes = pd.DataFrame(
        {"label": list(labels), "images": num_images, "groups": num_groups, "share": share}
    )
    missing = [label for label in expected_shares if label not in labels]
    if missing:
        rows = pd.DataFrame({"label": missing, "images": 0, "groups": np.nan, "share": np.nan})
        classes = pd.concat([classes, rows], ignore_index=True)
    total = max(1, int(classes["images"].sum()))
    counts = zip(classes["label"], classes["images"], strict=True)
    return classes.assign(
        change=[share_change(label, count / total, expected_shares) for label, count in counts]
    )


def share_change(label: str, share: float, expected: Mapping[str, float]) -> float:
    """The factor by which a class's share rose or fell, 1 or more; nan when it was or is absent."""
    before = expected.get(label, 0.0)
    return max(before / share, share / before) if before and share else math.nan


def _images_by_class(
    folder: Path, index: ManifestIndex, used: np.ndarray, labels: tuple[str, ...]
) -> np.ndarray:
    """Unique pairs of a class and one of its images, int64 (n, 2)."""
    numbers = {label: number for number, label in enumerate(labels)}
    found: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    for start, batch in batches(folder / "manifest.parquet", ["label"], _BLOCK):
        image = index.image[start : start + len(batch)]
        keep = used[start : start + len(batch)] & (image != NO_IMAGE)
        label = batch.to_pandas()["label"].map(numbers).fillna(NO_IMAGE).to_numpy(np.int64)
        found.append(np.unique(np.stack([label[keep], image[keep]], axis=1), axis=0))
    return np.unique(np.concatenate(found), axis=0)
