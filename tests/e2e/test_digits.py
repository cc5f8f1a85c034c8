"""The demo's data, with its damaged files, through the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pergola.components.artifacts.evaluation import Evaluation
from pergola.pipelines.commands.demo_data import write_digits
from tests.support.command import kill_when, pergola, pergola_json, serving


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "digits"
    assert write_digits(folder) == 1797
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("digits") / "work"


@pytest.mark.slow
def test_digits_become_a_served_model(digits, workspace):
    first = pergola_json("run", digits, "--workspace", workspace)
    assert first["decision"] == "accepted" and first["version"] == 1
    assert first["metrics"]["accuracy"] >= 0.97
    assert first["counts"]["quarantined"] == {"unreadable": 3, "label_conflict": 2}
    assert sum(first["counts"][part] for part in ("train", "validation", "test")) == 1796
    assert first["reused"] == []

    again = pergola_json("run", digits, "--workspace", workspace)
    assert set(again["reused"]) == set(again["seconds"]) and again["version"] == 1

    with serving(workspace):
        image = next(iter(sorted((digits / "4").glob("0*.png"))))
        (answer,) = pergola_json("predict", image, "--workspace", workspace)
        assert (answer["label"], answer["version"]) == ("4", 1)
        damaged = pergola("predict", digits / "3" / "truncated.png", "--workspace", workspace)
        assert (
            damaged.returncode == 2
            and "truncated.png" in damaged.stderr
            and "Traceback" not in damaged.stderr
        )

    (model,) = pergola_json("versions", "--workspace", workspace)["models"]
    assert model["champion"] == 1 and model["versions"][0]["published"]


@pytest.mark.slow
def test_digits_with_a_gate_that_asks_too_much_are_rejected_and_nothing_ships(digits, workspace):
    rejected = pergola_json("run", digits, "--workspace", workspace, "--set", "gate.min_accuracy=0.999")
    assert rejected["decision"] == "rejected" and rejected["version"] is None
    assert any("0.999" in reason or "99.9%" in reason for reason in rejected["reasons"])
    assert {"train", "export", "evaluate"} <= set(rejected["reused"])
    assert [p.name for p in (workspace / "models" / "digits").iterdir() if p.name.isdecimal()] == ["1"]


@pytest.mark.slow
def test_a_version_is_reproduced_from_its_own_record(digits, workspace):
    """Only the provenance of the run is left: settings, split and champion come from there."""
    shutil.move(workspace / "steps", workspace.parent / "steps")
    again = pergola_json("run", "--reproduce", "1", "--workspace", workspace)
    shutil.rmtree(workspace / "steps")
    shutil.move(workspace.parent / "steps", workspace / "steps")
    assert (
        again["reproduction"]["same_decision"]
        and again["again"] == again["reproduction"]
        and again["version"] is None
    )
    assert again["metrics"]["accuracy"] == pytest.approx(0.98, abs=0.02)
    image = next(iter(sorted((digits / "4").glob("0*.png"))))
    (seen,) = pergola_json("lineage", image, "--workspace", workspace)["versions"]
    assert seen["version"] == 1 and seen["files"][0]["label"] == "4"


@pytest.mark.slow
def test_digits_killed_in_training_end_as_an_undisturbed_run_does(digits, workspace, tmp_path):
    killed = tmp_path / "killed"
    run = ("run", digits, "--workspace", killed)
    kill_when(run, lambda: any(p.is_file() for p in killed.glob("steps/train/*.partial/**/*")))
    finished = pergola_json(*run)
    undisturbed, after_kill = (_champion_scores(folder) for folder in (workspace, killed))
    assert after_kill.accuracy == pytest.approx(undisturbed.accuracy, abs=0.01)
    assert after_kill.log_loss == pytest.approx(undisturbed.log_loss, abs=0.02)
    assert finished["version"] == 1


@pytest.mark.slow
def test_validate_lists_the_damaged_files(digits, tmp_path):
    found = pergola_json("validate", digits, "--workspace", tmp_path / "work")
    findings = {finding["check"]: finding for finding in found["findings"]}
    assert found["ok"]
    assert set(findings["unreadable"]["paths"]) == {"3/truncated.png", "5/empty.png", "7/not-an-image.png"}
    assert "8/copy-of-a-one.png" in findings["label_conflict"]["paths"]
    assert Path(found["page"]).is_file()


def test_demo_data_are_written_once(tmp_path):
    folder = tmp_path / "digits"
    assert write_digits(folder) == 1797
    shutil.rmtree(folder / "9")
    assert write_digits(folder) == 1797
    assert not (folder / "9").exists()


def _champion_scores(workspace: Path) -> Evaluation:
    (folder,) = (workspace / "steps" / "evaluate").glob("*/evaluation.json")
    return Evaluation.load(folder.parent)
