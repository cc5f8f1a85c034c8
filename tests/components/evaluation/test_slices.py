"""Slices: cut as stated, judged as SciPy and Holm's paper say, and silent about chance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact

from pergola.components.evaluation import slices as s
from pergola.components.evaluation.slices import SliceSettings, slice_scores


def test_slice_scores_find_the_slice_that_is_worse(tmp_path):
    rng = np.random.default_rng(0)
    brightness = rng.uniform(0, 255, 800)
    correct = rng.random(800) < np.where(brightness < 64, 0.6, 0.95)
    source = rng.choice(["phone", "camera"], 800)
    found = slice_scores(correct, {"brightness": list(brightness), "source": list(source)})
    verdicts = {(one.column, one.name): one.verdict for one in found.slices}
    dark = found.slices[0]
    assert dark.verdict == s.WORSE and dark.num_images == 200 and dark.interval[1] < dark.rest
    assert verdicts["source", "phone"] == verdicts["source", "camera"] == s.ALIKE
    assert len(found.slices) == 6
    found.save(tmp_path)
    assert s.Slices.load(tmp_path) == found


def test_slice_scores_do_not_judge_small_slices():
    correct = np.array([False] * 10 + [True] * 190)
    found = slice_scores(correct, {"format": ["GIF"] * 10 + ["JPEG"] * 190})
    assert [(one.name, one.verdict, one.p_value) for one in found.slices] == [
        ("GIF", s.TOO_SMALL, None),
        ("JPEG", s.TOO_SMALL, None),
    ]
    assert found.slices[0].accuracy == 0 and found.slices[0].interval[1] == pytest.approx(0.2775, abs=1e-4)


def test_slice_scores_have_fishers_p_value_corrected_by_holm():
    correct = np.array([True] * 60 + [False] * 40 + [True] * 90 + [False] * 10)
    found = slice_scores(correct, {"half": ["a"] * 100 + ["b"] * 100})
    alone = fisher_exact([[60, 40], [90, 10]]).pvalue
    assert [one.p_value for one in found.slices] == pytest.approx([2 * alone] * 2)
    assert [one.verdict for one in found.slices] == [s.WORSE, s.BETTER]


def test_holm_worked_by_hand():
    """Holm 1979: 0.01 x 4, 0.02 x 3, then 0.03 x 2 which may not fall below, then 0.04 x 1."""
    assert s.holm([0.02, 0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert s.holm([0.9, 0.8]) == [1, 1] and s.holm([]) == []


@pytest.mark.slow
def test_slice_scores_raise_few_false_alarms():
    """A model that errs by chance: any slice is called worse or better in at most 5% of 200 runs."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        columns = {f"c{i}": list(rng.normal(size=200)) for i in range(3)}
        found = slice_scores(rng.random(200) < 0.9, columns)
        alarms += any(one.verdict in (s.WORSE, s.BETTER) for one in found.slices)
    assert alarms <= binom.ppf(0.999, 200, 0.05)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.lists(st.one_of(st.none(), st.floats(), st.integers(-5, 5)), min_size=1, max_size=40),
        st.lists(st.one_of(st.none(), st.text(max_size=2)), min_size=1, max_size=40),
    )
)
def test_cut_puts_every_image_in_one_slice(values):
    parts = s.cut(values, SliceSettings(max_values=4))
    assert (sum(inside.astype(int) for _, inside in parts) == 1).all()
    assert len({name for name, _ in parts}) == len(parts) and len(parts) <= 5


def test_cut_of_words_keeps_the_frequent_ones():
    parts = dict(s.cut(["b"] * 3 + ["a"] * 5 + ["d", "c", None], SliceSettings(max_values=3)))
    assert {name: int(inside.sum()) for name, inside in parts.items()} == {
        "a": 5, "b": 3, s.OTHER: 2, s.UNKNOWN: 1,
    }  # fmt: skip


def test_slice_scores_leave_out_columns_that_cut_nothing_and_refuse_short_ones():
    assert slice_scores(np.ones(40, bool), {"width": [224] * 40}).slices == ()
    with pytest.raises(ValueError, match="'width' has 1 values for 40 images"):
        slice_scores(np.ones(40, bool), {"width": [224]})
