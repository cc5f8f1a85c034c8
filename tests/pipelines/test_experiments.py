import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pergola.components.training.search.tune import Trial, Tuning
from pergola.pipelines.commands.cli import pergola
from pergola.pipelines.local.experiments import TuneResult
from tests.support import images


def run(*arguments):
    return CliRunner().invoke(pergola, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command", [["architectures"], ["compare-architectures", "dataset", "--architectures"]]
)
def test_an_unknown_architecture_is_reported_with_the_nearest(command, tmp_path):
    result = run(
        *command, "cnnpool", *(["--workspace", tmp_path] if command[0] == "compare-architectures" else [])
    )
    assert result.exit_code == 2
    assert "There is no architecture 'cnnpool'. Did you mean 'cnn_pool'?" in result.stderr
    assert not list(tmp_path.iterdir())


def test_architectures_are_listed_with_what_they_cost():
    (row,) = json.loads(run("architectures", "mlp", "--classes", "3", "--json").stdout)
    assert row["num_parameters"] == 312_860 - 7 * 51 and row["flops"] == 625_400 - 2 * 7 * 50
    table = run("architectures", "mlp").stdout
    assert "32x32x3" in table and "312,860" in table and "MFLOPs" in table


@pytest.mark.slow
def test_compare_architectures_makes_a_table_and_a_chart(tmp_path):
    dataset = images.write_folder(tmp_path / "dataset", per_class=12)
    command = ["compare-architectures", dataset, "--workspace", tmp_path / "work", "--epochs", "2",
               "--architectures", "mlp,cnn_pool", "--json"]  # fmt: skip
    first = run(*command)
    assert first.exit_code == 0, first.stderr
    answer = json.loads(first.stdout)
    assert [row["name"] for row in answer["rows"]] == ["mlp", "cnn_pool"]
    assert (tmp_path / "work").is_dir() and answer["image"].endswith("ladder.png")
    again = run(*command)
    assert json.loads(again.stdout) == answer  # seconds too: nothing was trained again
    assert not list((tmp_path / "work" / "models").iterdir())


def test_tune_reports_why_trials_failed():
    good = Trial("0", {"model.dropout": 0.1}, 0.75, 0.9, 2, 1000, 3.0)
    bad = Trial("1", {"model.dropout": 0.2}, None, None, 0, 0, 1.0, "Training broke down.")
    words = TuneResult(Tuning("random", good, (good, bad)), Path("best.toml"), Path("dataset")).summary()
    assert "2 trials, 1 failed; the best is 0 with validation accuracy 75.00%" in words
    assert "\n  trial 1 failed: Training broke down.\n" in words and "trial 0 failed" not in words
