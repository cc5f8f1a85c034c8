"""What a release record remembers: who changed what, when and why."""

import dataclasses
import json

import pytest

from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from pergola.components.store.release_record import Release


def changed(store, change, at_s, why=""):
    return store.change("leaves", change, why=why, clock=lambda: at_s)


def test_each_change_is_added_with_time_person_and_reason(models, monkeypatch):
    """`models` made version 1 stable."""
    monkeypatch.setenv("PERGOLA_USER", "ada")
    changed(models, lambda r: release_record.make_canary(r, 2, 0.1), 4e9, "try it")
    changed(models, release_record.promote, 4e9 + 60)
    changed(models, release_record.rollback, 4e9 + 120, "worse")
    first, *history = models.release("leaves").history
    assert (first.what, first.stable) == ("stable 1", 1)
    assert [(e.what, e.stable, e.why) for e in history] == [
        ("canary 2 with 10%", 1, "try it"), ("stable 2 (was 1)", 2, ""), ("stable 1 (was 2)", 1, "worse"),
    ]  # fmt: skip
    assert history[0].at == "2096-10-02T07:06:40Z" and {e.who for e in history} == {"ada"}
    assert [e.generation for e in history] == [2, 3, 4]


def test_a_change_that_changes_nothing_is_not_history(models):
    before = models.release("leaves")
    assert changed(models, lambda r: release_record.make_stable(r, 1), 9e9) == before


def test_the_user_is_named_with_the_machine(monkeypatch):
    monkeypatch.delenv("PERGOLA_USER", raising=False)
    assert "@" in release_record.current_user()


def test_a_time_between_two_changes_finds_the_one_before(models):
    changed(models, lambda r: release_record.make_stable(r, 2), 4e9)
    changed(models, lambda r: release_record.make_stable(r, 3), 4e9 + 3600)
    release = models.release("leaves")
    assert release_record.live_at(release, release_record.utc(4e9 + 3599)).stable == 2
    assert release_record.live_at(release, release_record.utc(4e9 + 3600)).stable == 3
    assert release_record.live_at(release, "1999-01-01T00:00:00Z") is None


def test_a_clock_that_is_behind_does_not_turn_the_history_round(models):
    changed(models, lambda r: release_record.make_stable(r, 2), 4e9)
    release = changed(models, lambda r: release_record.make_stable(r, 3), 1e9)
    assert release.history[-1].at == release.history[-2].at


def test_a_record_without_history_is_read_and_continued(models, tmp_path):
    """As 0.1.0 wrote it."""
    file = tmp_path / "store" / "leaves" / "release.json"
    old = {
        key: value for key, value in dataclasses.asdict(Release(1, generation=7)).items() if key != "history"
    }
    file.write_text(json.dumps({"schema": "Release/1", **old}))
    store = open_store(tmp_path / "store")
    release = changed(store, lambda r: release_record.make_stable(r, 2), 4e9)
    assert [(e.what, e.generation) for e in release.history] == [("stable 2 (was 1)", 8)]


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('"stable": 1', '"stable": 3', "its last change is of other versions than it releases"),
        ('"canary": null', '"canary": 2', "its last change is of other versions than it releases"),
        ('"share": 0.0', '"share": 0.5', "its last change is of other versions than it releases"),
        ('"generation": 1', '"generation": 9', "its last change is of other versions than it releases"),
        ('"stable": 1', '"stabme": 1', r"release\.json: unknown key 'stabme'. Did you mean 'stable'\?"),
        ('"stable": 1', '"stable": "1"', r"release\.json: stable: expected a whole number, got '1'"),
        ('"history"', '"histori"', r"unknown key 'histori'"),
    ],
)
def test_a_record_with_a_changed_byte_is_damaged_and_naming_the_stable_version_heals_it(
    before, after, problem, models, tmp_path
):
    file = tmp_path / "store" / "leaves" / "release.json"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    with pytest.raises(release_record.Unreadable, match=problem) as raised:
        models.release("leaves")
    assert str(raised.value).startswith(f"{file} is damaged")
    assert str(raised.value).endswith("Write a new one: pergola release stable N.")
    models.change("leaves", lambda r: release_record.make_stable(r, 2), anew=True)
    assert models.release("leaves").stable == 2
