from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pergola.components.records import setting
from pergola.pipelines.local import reuse
from pergola.pipelines.local.reuse import Steps


@dataclass(frozen=True)
class Salt:
    """How much."""

    grams: int = setting(1, "of salt")


def write(text: str):
    def work(folder: Path) -> None:
        (folder / "dish.txt").write_text(text)

    return work


def test_steps_reuse_what_did_not_change(tmp_path: Path):
    first = Steps(tmp_path).run("scan", write("soup"), inputs={"a": "1"}, settings=Salt())
    again = Steps(tmp_path).run("scan", pytest.fail, inputs={"a": "1"}, settings=Salt())
    assert not first.reused and again.reused
    assert again.sha256 == first.sha256
    assert (again.folder / "dish.txt").read_text() == "soup"


@pytest.mark.parametrize(
    "changed", [{"inputs": {"a": "2"}, "settings": Salt()}, {"inputs": {"a": "1"}, "settings": Salt(grams=2)}]
)
def test_steps_redo_what_changed(tmp_path: Path, changed):
    first = Steps(tmp_path).run("scan", write("soup"), inputs={"a": "1"}, settings=Salt())
    again = Steps(tmp_path).run("scan", write("stew"), **changed)
    assert not again.reused and again.key != first.key
    assert (first.folder / "dish.txt").read_text() == "soup"


def test_steps_redo_what_somebody_touched(tmp_path: Path):
    first = Steps(tmp_path).run("scan", write("soup"), inputs={})
    (first.folder / "dish.txt").write_text("poison")
    again = Steps(tmp_path).run("scan", write("soup"), inputs={})
    assert not again.reused
    assert (again.folder / "dish.txt").read_text() == "soup"


def test_steps_force_redoes_from_a_step_on(tmp_path: Path):
    def walk(**arguments):
        steps = Steps(tmp_path, **arguments)
        for step in ("scan", "validate", "split"):
            steps.run(step, write(step), inputs={})
        return [step for step, output in steps.done.items() if not output.reused]

    assert walk() == ["scan", "validate", "split"]
    assert walk() == []
    assert walk(force_from="validate") == ["validate", "split"]


def test_steps_hand_a_partial_folder_only_to_a_step_that_resumes(tmp_path: Path):
    def die(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("killed")

    def look(folder: Path) -> None:
        seen.append(sorted(p.name for p in folder.iterdir()))

    seen: list[list[str]] = []
    for step, resumes in (("train", True), ("export", False)):
        with pytest.raises(RuntimeError, match="killed"):
            Steps(tmp_path).run(step, die, inputs={}, resumes=resumes)
        Steps(tmp_path).run(step, look, inputs={}, resumes=resumes)
    assert seen == [["half.txt"], []]


def test_steps_survive_a_kill_between_rename_and_mark(tmp_path: Path):
    first = Steps(tmp_path).run("scan", write("soup"), inputs={})
    first.folder.with_suffix(".json").unlink()
    again = Steps(tmp_path).run("scan", write("soup"), inputs={})
    assert not again.reused
    assert again.sha256 == first.sha256


def test_prune_keeps_what_is_named(tmp_path: Path):
    old = Steps(tmp_path).run("scan", write("soup"), inputs={"a": "1"})
    new = Steps(tmp_path).run("scan", write("stew"), inputs={"a": "2"})
    reuse.prune(tmp_path, {f"scan/{new.key}"})
    assert not old.folder.exists() and not old.folder.with_suffix(".json").exists()
    assert Steps(tmp_path).run("scan", pytest.fail, inputs={"a": "2"}).reused
