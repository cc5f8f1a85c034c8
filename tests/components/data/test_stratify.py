"""stratify: shares within half a group, thresholds that give the same again, no group that is too large."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pergola.components.data.stratify import fall, stratify

TRAIN, VALIDATION, TEST = range(3)


@st.composite
def classes(draw):
    sizes = np.array(draw(st.lists(st.integers(1, 12), min_size=3, max_size=60)), np.int64)
    seed = draw(st.integers(0, 10_000))
    hashes = np.random.default_rng(seed).random(len(sizes))
    shares = {TEST: draw(st.floats(0.01, 0.45)), VALIDATION: draw(st.floats(0.01, 0.45))}
    return hashes, sizes, shares


@given(classes())
def test_every_split_has_a_group_and_about_its_share(drawn):
    hashes, sizes, shares = drawn
    splits, thresholds = stratify(hashes, sizes, shares, TRAIN)
    assert set(splits.tolist()) == {TRAIN, VALIDATION, TEST}
    assert 0 < thresholds[TEST] <= thresholds[VALIDATION] <= 1
    wanted = shares[TEST] * sizes.sum()
    if (sizes <= wanted).sum() >= 3 and sizes[sizes <= wanted].sum() > wanted:
        largest = sizes[splits == TEST].max()
        assert abs(sizes[splits == TEST].sum() - wanted) <= max(largest, sizes[sizes <= wanted].max())


@given(classes())
def test_thresholds_give_the_same_split_again_where_no_group_is_too_large(drawn):
    hashes, _, shares = drawn
    sizes = np.ones(len(hashes), np.int64)
    splits, thresholds = stratify(hashes, sizes, shares, TRAIN)
    np.testing.assert_array_equal(fall(hashes, thresholds, TRAIN), splits)
    wanted = shares[TEST] * len(hashes)
    if 1 <= wanted <= len(hashes) - 2:
        assert abs((splits == TEST).sum() - wanted) <= 0.5 + 1e-9


@given(classes(), st.randoms(use_true_random=False))
def test_the_order_of_groups_does_not_matter(drawn, random):
    hashes, sizes, shares = drawn
    order = np.array(random.sample(range(len(hashes)), len(hashes)))
    splits, thresholds = stratify(hashes, sizes, shares, TRAIN)
    again, same = stratify(hashes[order], sizes[order], shares, TRAIN)
    np.testing.assert_array_equal(again, splits[order])
    assert same == thresholds


def test_a_group_larger_than_the_share_is_not_tested_on():
    hashes, sizes = np.array([0.1, *np.linspace(0.2, 0.99, 40)]), np.array([60, *[1] * 40])
    splits, _ = stratify(hashes, sizes, {TEST: 0.15, VALIDATION: 0.15}, TRAIN)
    assert splits[0] == TRAIN
    assert ((splits == TEST).sum(), (splits == VALIDATION).sum()) == (15, 15)


def test_three_groups_of_any_size_are_dealt():
    for sizes in ([60, 1, 1], [1, 60, 1], [1, 1, 60], [5, 5, 5]):
        splits, _ = stratify(
            np.array([0.1, 0.5, 0.9]), np.array(sizes), {TEST: 0.15, VALIDATION: 0.15}, TRAIN
        )
        assert sorted(splits.tolist()) == [TRAIN, VALIDATION, TEST]
