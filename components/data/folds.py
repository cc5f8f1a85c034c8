"""Parts that are predicted in turn by what was learned on the others, without a leak between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


def group_numbers(ids: Sequence[str], groups: Mapping[str, str] | None) -> Ints:
    """The group of each picture as a number, int (N,). groups: id -> group; others are on their own."""
    return np.unique([(groups or {}).get(id, id) for id in ids], return_inverse=True)[1]


def enough_groups(labels: Ints, groups: Ints, num_classes: int, folds: int) -> Bools:
    """Which classes have a group for every fold, bool (C,)."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return np.bincount(pairs[0], minlength=num_classes) >= folds


def group_folds(labels: Ints, groups: Ints, folds: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Rows to learn from and rows to predict, a fold at a time; a group is never on both sides.

    Classes are spread evenly as far as groups allow. Every class wants `folds` groups (`enough_groups`).
    """
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    yield from splitter.split(np.zeros((len(labels), 1)), labels, groups)
