"""Folds: no group on two sides, classes spread as evenly as groups allow."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pergola.components.stats.cross_validation import group_folds

ROWS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        arrays.arrays(np.int64, n, elements=st.integers(0, 3)),
        arrays.arrays(np.int64, n, elements=st.integers(0, n - 1)),
    )
)


@given(rows=ROWS, folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_every_row_is_predicted_once_and_no_group_is_on_both_sides(rows, folds, seed):
    labels, groups = rows
    predicted = []
    for seen, unseen in group_folds(labels, groups, folds, seed):
        assert sorted([*seen, *unseen]) == list(range(len(labels)))
        assert not set(groups[seen]) & set(groups[unseen])
        predicted.extend(unseen)
    assert sorted(predicted) == list(range(len(labels)))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=40), st.integers(2, 5))
def test_classes_are_uneven_by_one_group_at_most(sized, folds):
    """Groups of one class: no fold has more of the class than another by more than its largest group."""
    kinds, sizes = np.array(sized).T
    labels, groups = np.repeat(kinds, sizes), np.repeat(np.arange(len(sizes)), sizes)
    for kind in np.unique(kinds):
        shares = [np.sum(labels[unseen] == kind) for _, unseen in group_folds(labels, groups, folds, 0)]
        assert max(shares) - min(shares) <= sizes[kinds == kind].max()


def test_seeds_shuffle():
    labels, groups = np.zeros(40, np.int64), np.arange(40)
    first, again, other = (
        [unseen.tolist() for _, unseen in group_folds(labels, groups, 4, seed)] for seed in (0, 0, 1)
    )
    assert first == again != other
