"""Stratified cross-validation folds that never divide a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


def group_numbers(ids: Sequence[str], groups: Mapping[str, str] | None) -> Ints:
    """The group of each image as a number, int (N,). groups: id -> group; others have their own."""
    return np.unique([(groups or {}).get(id, id) for id in ids], return_inverse=True)[1]


def enough_groups(labels: Ints, groups: Ints, num_classes: int, folds: int) -> Bools:
    """Which classes have at least one group per fold, bool (C,)."""
    pairs = np.unique(np.stack([labels, groups]), axis=1)
    return np.bincount(pairs[0], minlength=num_classes) >= folds


def group_folds(labels: Ints, groups: Ints, folds: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """Training and test rows of each fold; a group is never in both.

    Classes are distributed evenly as far as groups allow. Every class needs `folds` groups (`enough_groups`).
    """
    fold = _fold_of_rows(labels, groups, folds, seed)
    for number in range(folds):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _fold_of_rows(labels: Ints, groups: Ints, folds: int, seed: int) -> Ints:
    """The fold of each row, int (N,): groups, the largest first, go where their classes are rarest.

    scikit-learn's StratifiedGroupKFold does the same with a standard deviation for each group and fold, which
    takes minutes for a hundred thousand images.
    """
    sizes = np.bincount(groups)
    (owners, kinds), counts = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    starts = np.searchsorted(owners, np.arange(len(sizes) + 1))
    weights = counts / np.bincount(labels)[kinds]
    filled = np.zeros((int(labels.max()) + 1, folds))
    fold = np.zeros(len(sizes), np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        own = slice(starts[group], starts[group + 1])
        there = filled[kinds[own]]
        fold[group] = np.lexsort((filled.sum(axis=0), weights[own] @ there))[0]
        filled[kinds[own], fold[group]] += counts[own]
    return fold[groups]
