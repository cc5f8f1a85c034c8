"""The release record: who is stable, who is canary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pergola.components.errors import InputError
from pergola.components.store import release_record
from pergola.components.store.release_record import Release


def test_make_stable_remembers_the_version_before():
    release = release_record.make_stable(release_record.make_stable(Release(), 3), 4)
    assert (release.stable, release.previous, release.generation) == (4, 3, 2)
    assert release_record.make_stable(release, 4) is release


def test_promote_makes_the_canary_stable():
    release = release_record.promote(release_record.make_canary(Release(stable=3), 4, 0.1))
    assert (release.stable, release.previous, release.canary, release.share) == (4, 3, None, 0.0)


def test_make_stable_of_another_version_keeps_the_canary():
    release = release_record.make_stable(Release(stable=3, canary=5, share=0.2), 4)
    assert (release.stable, release.canary, release.share) == (4, 5, 0.2)


def test_withdraw_drops_the_canary_unless_a_version_is_named():
    release = Release(stable=4, canary=5, share=0.2, previous=3)
    assert release_record.withdraw(release).canary is None
    assert release_record.withdraw(release, 5).stable == 4
    assert release_record.withdraw(release, 4).stable == 3
    assert release_record.withdraw(release, 3).previous is None
    assert release_record.withdraw(Release(stable=1), 1).stable is None


def test_rollback_goes_to_the_version_before_once():
    release = release_record.rollback(Release(stable=4, previous=3, canary=5, share=0.5))
    assert (release.stable, release.canary) == (3, None)
    with pytest.raises(InputError, match="No version before 3"):
        release_record.rollback(release)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: release_record.make_canary(Release(), 2, 0.1), "needs a stable version"),
        (lambda: release_record.make_canary(Release(stable=2), 2, 0.1), "already stable"),
        (lambda: release_record.make_canary(Release(stable=2), 3, 1.0), "between 0% and 100%. Got 100%"),
        (lambda: release_record.promote(Release(stable=2)), "no canary to promote"),
        (lambda: release_record.withdraw(Release(stable=2)), "no canary to withdraw"),
        (lambda: release_record.withdraw(Release(stable=2), 9), "neither stable"),
        (lambda: release_record.rollback(Release()), "Nothing is stable"),
    ],
)
def test_changes_that_make_no_sense_say_what_to_do(change, message):
    with pytest.raises(InputError, match=message):
        change()


@given(
    st.builds(
        Release,
        stable=st.none() | st.integers(1, 10**9),
        canary=st.none() | st.integers(1, 10**9),
        share=st.floats(0, 1),
        previous=st.none() | st.integers(1, 10**9),
        generation=st.integers(0, 10**9),
    )
)
def test_json_brings_back_the_same_record(release):
    assert release_record.from_json(release_record.to_json(release), "here") == release


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"schema": "Release/1", "stabel": 3}', b"\xff"])
def test_from_json_refuses_what_is_no_record(raw):
    with pytest.raises(InputError, match="here"):
        release_record.from_json(raw, "here")
