"""Outputs of steps by key: complete or made again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from pergola.pipelines.local.cache import SMALL, Cache, key_of
from tests.support.damage import flip


def write(text: str):
    def work(folder: Path) -> None:
        (folder / "dish.txt").write_text(text)

    return work


def make(root: Path, key: str = "k", text: str = "soup", *, resumes: bool = False):
    return Cache(root).make("scan", key, write(text), resumes=resumes)


def test_an_output_is_found_again(tmp_path):
    first = make(tmp_path)
    again = Cache(tmp_path).find("scan", "k")
    assert again is not None and again.reused and not first.reused
    assert (again.sha256, again.folder) == (first.sha256, first.folder)
    assert Cache(tmp_path).find("scan", "other") is None


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"a": "2"}},
        {"settings": {"scan": {"grams": 2}}},
        {"code": "other"},
        {"observed": "other"},
        {"model": "other"},
    ],
)
def test_the_key_holds_inputs_settings_code_and_what_was_observed(change):
    given = {
        "inputs": {"a": "1"},
        "settings": {"scan": {"grams": 1}},
        "code": "c",
        "observed": "",
        "model": "m",
    }
    assert key_of(**{**given, **change}) != key_of(**given) == key_of(**given)


def test_a_touched_file_is_judged_by_its_content(tmp_path):
    first = make(tmp_path)
    os.utime(first.folder / "dish.txt", (1, 1))
    assert Cache(tmp_path).find("scan", "k").sha256 == first.sha256
    (first.folder / "dish.txt").write_text("poison")
    assert Cache(tmp_path).find("scan", "k") is None


def test_a_copied_workspace_reuses_everything(tmp_path):
    make(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copy)  # as cp -r: new times
    assert Cache(tmp_path / "two").find("scan", "k") is not None


def test_a_file_more_or_less_is_no_complete_output(tmp_path):
    first = make(tmp_path)
    (first.folder / "more.txt").write_text("x")
    assert Cache(tmp_path).find("scan", "k") is None
    (first.folder / "more.txt").unlink()
    assert Cache(tmp_path).find("scan", "k") is not None
    (first.folder / "dish.txt").unlink()
    assert Cache(tmp_path).find("scan", "k") is None


def test_soundness_reads_content_whatever_the_stamps_say(tmp_path):
    first = make(tmp_path)
    os.truncate(first.folder / "dish.txt", SMALL + 1)  # a hole, which takes no room
    first = Cache(tmp_path).make("scan", "k", lambda folder: None, resumes=True)
    flip(first.folder / "dish.txt", quietly=True)
    cache = Cache(tmp_path)
    assert cache.find("scan", "k") is not None  # the shortcut does not see it
    assert not cache.is_sound(first)
    cache.forget(first)
    assert cache.find("scan", "k") is None


def test_a_small_output_that_decayed_is_made_again(tmp_path):
    first = make(tmp_path)
    flip(first.folder / "dish.txt", quietly=True)
    assert Cache(tmp_path).find("scan", "k") is None


@pytest.mark.parametrize("place", range(0, 150, 3))
def test_a_damaged_mark_is_never_trusted(tmp_path, place):
    first = make(tmp_path)
    mark = first.folder.with_suffix(".json")
    content = bytearray(mark.read_bytes())
    content[place % len(content)] ^= 1
    mark.write_bytes(content)
    found = Cache(tmp_path).find("scan", "k")
    assert found is None or found.sha256 == first.sha256


def test_only_a_step_that_resumes_gets_a_partial_folder(tmp_path):
    def die(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("killed")

    def look(folder: Path) -> None:
        seen.append(sorted(p.name for p in folder.iterdir()))

    seen: list[list[str]] = []
    for step, resumes in (("train", True), ("export", False)):
        with pytest.raises(RuntimeError, match="killed"):
            Cache(tmp_path).make(step, "k", die, resumes=resumes)
        Cache(tmp_path).make(step, "k", look, resumes=resumes)
    assert seen == [["half.txt"], []]


def test_a_kill_between_rename_and_mark_costs_one_step(tmp_path):
    first = make(tmp_path)
    first.folder.with_suffix(".json").unlink()
    assert Cache(tmp_path).find("scan", "k") is None
    assert make(tmp_path).sha256 == first.sha256


def test_prune_keeps_what_is_named(tmp_path):
    old, new = make(tmp_path, "old"), make(tmp_path, "new")
    Cache(tmp_path).prune({"scan/new"})
    assert not old.folder.exists() and not old.folder.with_suffix(".json").exists()
    assert Cache(tmp_path).find("scan", new.key) is not None
