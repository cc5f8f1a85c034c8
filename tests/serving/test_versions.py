"""Which versions are found, chosen, loaded and unloaded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pergola.serving.server.config.versions import (
    MAX_VERSION,
    All,
    Latest,
    Specific,
    VersionPlan,
    choose,
    find,
    plan,
)

VERSIONS = st.sets(st.integers(0, 6), max_size=5)


def test_find_takes_numbers_only(tmp_path):
    for name in ("1", "002", "10", "v3", "4.tmp", ".5", "-6", "+7", "٣", str(MAX_VERSION + 1), "0"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    assert {number: path.name for number, path in find(tmp_path).items()} == {
        0: "0", 1: "1", 2: "002", 8: "8", 10: "10",
    }  # fmt: skip


def test_find_takes_one_of_two_names_of_a_number(tmp_path):
    for name in ("7", "007"):
        (tmp_path / name).mkdir()
    assert find(tmp_path)[7].name == "007"


def test_find_raises_when_the_base_path_is_gone(tmp_path):
    with pytest.raises(OSError):
        find(tmp_path / "gone")


def test_policies_choose():
    assert choose([1, 2, 10], Latest()) == {10}
    assert choose([1, 2, 10], Latest(2)) == {2, 10}
    assert choose([1, 2, 10], All()) == {1, 2, 10}
    assert choose([1, 2, 10], Specific(frozenset({2, 5}))) == {2}


def test_plan_loads_the_new_before_it_unloads_the_old():
    assert plan({2}, available={1}, known={1}) == VersionPlan(load=(2,), unload=())
    assert plan({2}, available={1, 2}, known={1, 2}) == VersionPlan(load=(), unload=(1,))


def test_plan_keeps_the_old_while_the_new_one_fails():
    assert plan({2}, available={1}, known={1, 2}) == VersionPlan(load=(), unload=())


def test_plan_empties_when_nothing_is_wanted():
    assert plan(set(), available={1, 2}, known={1, 2}) == VersionPlan(load=(), unload=(1, 2))


@given(desired=VERSIONS, available=VERSIONS, failed=VERSIONS)
def test_plan_never_leaves_a_wanted_model_without_a_version(desired, available, failed):
    found = plan(desired, available, available | failed)
    left = available - set(found.unload)
    assert not available or not desired or left
    assert set(found.load) <= desired - available - failed
    assert not set(found.unload) & desired
    assert list(found.load) == sorted(found.load, reverse=True)
