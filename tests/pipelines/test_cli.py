from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pergola.pipelines.commands import cli
from tests.support import images
from tests.support.layouts import many

HEAVY = (
    "tensorflow",
    "keras",
    "mlflow",
    "great_expectations",
    "kfp",
    "pandas",
    "pyarrow",
    "grpc",
    "matplotlib",
)


def pergola(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pergola.pipelines.commands.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_help_imports_nothing_heavy():
    code = f"""
import sys
from click.testing import CliRunner
from pergola.pipelines.commands.cli import pergola
result = CliRunner().invoke(pergola, ["--help"])
assert result.exit_code == 0 and "pergola run DATASET" in result.output, result.output
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_help_lists_each_command_in_one_section_with_a_whole_sentence():
    result = CliRunner().invoke(cli.pergola, ["--help"])
    listed = [name for names in cli.SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(cli.pergola.commands)
    sections = result.output.split("Options:")[1].split("\n\n")[1:]
    assert [section.splitlines()[0] for section in sections] == [f"{name}:" for name in cli.SECTIONS]
    lines = [line for section in sections for line in section.splitlines()[1:]]
    assert [line.split()[0] for line in lines] == listed
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", sorted(cli.pergola.commands))
def test_help_of_each_command_has_an_example(name):
    result = CliRunner().invoke(cli.pergola, [name, "--help"])
    assert result.exit_code == 0 and f"  pergola {name} " in f"{result.output} ".replace("\n", " \n")


@pytest.mark.parametrize("command", ["run", "validate", "serve", "predict", "versions", "config"])
def test_common_options_are_in_the_help(command):
    result = CliRunner().invoke(cli.pergola, [command, "--help"])
    assert all(option in result.output for option in ("--workspace", "--config", "--set", "--json"))


def test_config_prints_what_it_takes_back(tmp_path):
    changed = pergola("config", "--set", "train.epochs=7")
    assert "epochs = 7" in changed.stdout
    (tmp_path / "mine.toml").write_text(changed.stdout)
    again = pergola("config", "--config", tmp_path / "mine.toml")
    assert again.returncode == 0, again.stderr
    assert again.stdout == changed.stdout
    every_key = [line for line in changed.stdout.splitlines() if " = " in line and not line.startswith("#")]
    comments = [line for line in changed.stdout.splitlines() if line.startswith("# ")]
    assert len(comments) >= len(every_key) > 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "train.epoch=7"], "unknown key 'epoch'. Did you mean 'epochs'?"),
        (["--set", "trian.epochs=7"], "unknown section 'trian'. Did you mean 'train'?"),
        (["--set", "train.epochs=many"], "epochs: expected a whole number, got 'many'"),
        (["--set", "epochs"], "--set expects section.key=value, got 'epochs'"),
        (["--config", "absent.toml"], "absent.toml does not exist"),
    ],
)
def test_bad_settings_get_one_sentence(arguments, words):
    done = pergola("config", "--json", *arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr
    assert words in json.loads(done.stdout)["error"]


def test_run_refuses_a_missing_folder_and_makes_no_workspace(tmp_path):
    done = pergola("run", tmp_path / "absent", "--workspace", tmp_path / "work", "--json")
    assert done.returncode == 2
    assert "no such file or folder" in json.loads(done.stdout)["error"]
    assert not (tmp_path / "work").exists()


def test_run_refuses_an_unknown_step(tmp_path):
    dataset = images.write_folder(tmp_path / "dataset", per_class=4)
    done = pergola("run", dataset, "--workspace", tmp_path / "work", "--force", "trian")
    assert done.returncode == 2
    assert "there is no step 'trian'. Did you mean 'train'?" in done.stderr


def test_predict_without_a_server_says_how_to_start_one(tmp_path):
    dataset = images.write_folder(tmp_path / "dataset", per_class=4)
    image = next(dataset.rglob("*.png"))
    done = pergola("predict", image, "--model", "m", "--server", "localhost:9", "--timeout", "1")
    assert done.returncode == 1
    assert "No server answers at localhost:9. Start one with `pergola serve" in done.stderr


def test_predict_refuses_a_missing_image(tmp_path):
    done = pergola("predict", tmp_path / "absent.jpg", "--model", "m")
    assert done.returncode == 2
    assert "There is no image at" in done.stderr


def test_versions_without_a_workspace_says_how_to_make_one(tmp_path):
    done = pergola("versions", "--workspace", tmp_path / "work")
    assert done.returncode == 2
    assert "Make one with `pergola run DATASET`" in done.stderr


def test_validate_names_folders_in_doubt_and_layout_decides(tmp_path):
    root = tmp_path / "d"
    for number, path in enumerate(many("train/{c}/{k}.png", "test/{c}/{k}.png", "more/{c}/{k}.png", count=4)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(images.png(images.pixels(0, number, size=16)))
    (root / "notes.txt").write_text("text")
    command = ["validate", str(root), "--json", "--workspace", str(tmp_path / "w")]
    command += ["--set", "validate.max_inspected=0"]
    in_doubt = CliRunner().invoke(cli.pergola, command)
    found = json.loads(in_doubt.stdout)
    critical = [finding for finding in found["findings"] if finding["severity"] == "critical"]
    assert not found["ok"] and [finding["check"] for finding in critical] == ["layout"]
    assert "'more' beside folders that are named like splits" in critical[0]["message"]
    assert "--layout splits" in critical[0]["message"]
    decided = json.loads(CliRunner().invoke(cli.pergola, [*command, "--layout", "splits"]).stdout)
    left_out = [(f["count"], f["paths"]) for f in decided["findings"] if f["check"] == "left_out"]
    assert decided["ok"] and decided["counts"]["images"] == 24
    assert left_out == [(12, ["more/"]), (1, ["notes.txt"])]
    page = Path(decided["page"]).read_text(encoding="utf-8")
    assert "Left out: 12 images in &#39;more&#39;" in page and "1 file is left out" in page
    unknown = CliRunner().invoke(cli.pergola, [*command, "--layout", "split"])
    assert unknown.exit_code == 2
