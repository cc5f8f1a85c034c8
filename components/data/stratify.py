"""Stratified splits of one class: its groups with the smallest hashes, until each split has its share.

The thresholds that this sets are kept. What is added later falls by them, and what is there need not move.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def stratify(
    hashes: np.ndarray, sizes: np.ndarray, shares: Mapping[int, float], rest: int
) -> tuple[np.ndarray, dict[int, float]]:
    """The split of each group, int64 (groups,), and each split's upper threshold.

    hashes: float64 (groups,), in [0, 1), all different.  sizes: int64 (groups,), images.
    shares: of each split's images, in the order in which splits take the smallest hashes.
    rest: the split of all other groups.

    A split gets the number of images that is nearest to its share, and at least one group while there are
    enough for all. A group that is larger than the share goes to `rest`, unless all are.
    """
    splits = np.full(len(hashes), rest, np.int64)
    order = np.argsort(hashes)
    thresholds: dict[int, float] = {}
    low = 0.0
    for place, (split, share) in enumerate(shares.items()):
        left = order[splits[order] == rest]
        beyond = left[hashes[left] >= low]
        free = beyond if len(beyond) else left  # all that is beyond went to the split before: it alone fitted
        taken = _taken(sizes[free], share * sizes.sum(), len(left) - (len(shares) - place))
        splits[free[taken]] = split
        thresholds[split] = low = max(low, _between(hashes[free], taken, low + share))
    return splits, thresholds


def fall(hashes: np.ndarray, thresholds: Mapping[int, float], rest: int) -> np.ndarray:
    """The split of each new group by the thresholds of its class, int64 (groups,)."""
    splits = np.full(len(hashes), rest, np.int64)
    for split, threshold in sorted(thresholds.items(), key=lambda item: -item[1]):
        splits[hashes < threshold] = split
    return splits


def _taken(sizes: np.ndarray, wanted: float, most: int) -> np.ndarray:
    """Which groups, by ascending hash, a split takes: indices, at most `most`."""
    if not len(sizes) or most < 1:
        return np.zeros(0, np.int64)
    fitting = np.flatnonzero(sizes <= max(wanted, sizes.min()))
    totals = np.concatenate([[0], np.cumsum(sizes[fitting])])
    return fitting[: max(1, min(most, int(np.abs(totals - wanted).argmin())))]


def _between(hashes: np.ndarray, taken: np.ndarray, otherwise: float) -> float:
    """A threshold halfway between the last group that was taken and the next one."""
    if not len(taken):
        return min(1.0, otherwise)
    last = int(taken[-1])
    return float(hashes[last] + (hashes[last + 1] if last + 1 < len(hashes) else 1.0)) / 2
