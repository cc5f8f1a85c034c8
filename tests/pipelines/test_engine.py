"""The local engine on pipelines of a few small steps."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from pergola.components.errors import InputError
from pergola.components.progress import silent
from pergola.components.settings import Settings
from pergola.components.steps.context import Context
from pergola.components.workspace import Workspace
from pergola.pipelines.definition import Pipeline, Step
from pergola.pipelines.local.engine import Engine

CODE = ("pergola.components.digest",)


def pick(context: Context, out: Path) -> None:
    (out / "fruit.txt").write_text(f"pear {context.settings.split.seed}")


def press(context: Context, out: Path, fruit: Path) -> None:
    (out / "juice.txt").write_text((fruit / "fruit.txt").read_text() + " juice")


def sell(context: Context, out: Path, juice: Path) -> None:
    market = context.workspace.root / "market"
    market.mkdir(exist_ok=True)
    (market / "juice.txt").write_text((juice / "juice.txt").read_text())
    (out / "receipt.txt").write_text("sold")


def is_sold(context: Context, out: Path) -> bool:
    return (context.workspace.root / "market" / "juice.txt").is_file()


def frame(context: Context, out: Path, receipt: Path) -> None:
    (out / "framed.txt").write_text("framed")


PICK = Step("pick", pick, "fruit", group="farm", code=CODE, settings=("split.seed",))
PRESS = Step("press", press, "juice", group="farm", code=CODE)
SELL = Step("sell", sell, "receipt", group="shop", code=CODE, verifies=("juice",), still=is_sold)
FRAME = Step("frame", frame, "framed", group="shop", code=CODE, still=lambda context, out: True)
FARM = Pipeline("farm", (PICK, PRESS, SELL, FRAME))


def context(root: Path, seed: int = 0) -> Context:
    workspace = Workspace(root / "work")
    workspace.create()
    settings = Settings()
    settings = dataclasses.replace(settings, split=dataclasses.replace(settings.split, seed=seed))
    return Context(root, "farm", settings, workspace, progress=silent)


def redone(root: Path, pipeline: Pipeline = FARM, seed: int = 0, **arguments) -> list[str]:
    engine = Engine(pipeline, context(root, seed), **arguments)
    engine.run()
    return [step for step, output in engine.done.items() if not output.reused]


def test_what_did_not_change_is_reused(tmp_path):
    assert redone(tmp_path) == ["pick", "press", "sell", "frame"]
    assert redone(tmp_path) == []


def test_a_changed_setting_redoes_what_declares_it_and_all_that_builds_on_it(tmp_path):
    redone(tmp_path)
    assert redone(tmp_path, seed=1) == ["pick", "press", "sell", "frame"]


def test_force_redoes_from_a_step_on(tmp_path):
    redone(tmp_path)
    assert redone(tmp_path, force_from="press") == ["press", "sell", "frame"]
    with pytest.raises(InputError, match=r"--force: there is no step 'pres'\. Did you mean 'press'"):
        redone(tmp_path, force_from="pres")


def test_a_step_that_reads_an_undeclared_setting_is_stopped(tmp_path):
    bold = dataclasses.replace(PICK, settings=("train.seed",))
    with pytest.raises(LookupError, match=r"does not declare the setting .split."):
        redone(tmp_path, Pipeline("bold", (bold,)))


def test_an_effect_that_is_gone_is_done_again_and_so_are_effects_that_build_on_it(tmp_path):
    redone(tmp_path)
    (tmp_path / "work" / "market" / "juice.txt").unlink()
    assert redone(tmp_path) == ["sell", "frame"]


def test_content_altered_behind_the_stamps_is_made_again_before_it_is_released(tmp_path):
    engine = Engine(FARM, context(tmp_path))
    engine.run()
    file = engine.output("juice").folder / "juice.txt"
    stat = file.stat()
    file.write_text("pear 0 water")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    assert redone(tmp_path) == ["press"]
    assert (tmp_path / "work" / "market" / "juice.txt").read_text() == "pear 0 juice"


def test_a_row_that_takes_what_nobody_makes_is_refused():
    with pytest.raises(ValueError, match="Step press takes fruit, which no step before it makes"):
        Pipeline("late", (PRESS, PICK))


def test_a_row_without_code_is_refused():
    with pytest.raises(ValueError, match="Step pick declares no code"):
        Pipeline("bare", (dataclasses.replace(PICK, code=()),))


def test_a_step_that_is_always_done_counts_as_reused_when_it_finds_the_same(tmp_path):
    curious = dataclasses.replace(PICK, always=True, observes=None)
    farm = Pipeline("farm", (curious, PRESS))
    assert redone(tmp_path, farm) == ["pick", "press"]
    assert redone(tmp_path, farm) == []
