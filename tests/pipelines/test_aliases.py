"""Names of commands, options and settings of the release before still work, and name their successor."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
from click.testing import CliRunner

from pergola.pipelines.commands import aliases, cli

LAST_RELEASE = "The old name works for one more release."


@pytest.mark.parametrize(("old", "new"), aliases.COMMANDS.items())
def test_an_old_command_runs_its_successor_and_is_hidden(old, new):
    renamed, current = (CliRunner().invoke(cli.pergola, [name, "--help"]) for name in (old, new))
    assert renamed.exit_code == 0 and renamed.stdout == current.stdout
    assert (
        renamed.stderr == f"pergola: '{old}' is now called '{new}'. {LAST_RELEASE}\n" and not current.stderr
    )
    assert f"  {old} " not in CliRunner().invoke(cli.pergola, ["--help"]).output


@pytest.mark.parametrize(("command", "old", "new"), [(*key, new) for key, new in aliases.OPTIONS.items()])
def test_an_old_option_is_read_as_its_successor_and_is_hidden(command, old, new):
    known = {name for option in cli.pergola.commands[command].params for name in option.opts}
    assert new in known and old not in known
    renamed = CliRunner().invoke(cli.pergola, [command, old, "x", "--help"])
    assert renamed.stderr == f"pergola: '{old}' is now called '{new}'. {LAST_RELEASE}\n"
    assert old not in renamed.stdout.split()


def test_an_old_option_keeps_its_value(tmp_path):
    asked = ["run", "--like=shapes/3", "--workspace", str(tmp_path)]
    (tmp_path / "pergola.json").write_text('{"layout": 1}')
    result = CliRunner().invoke(cli.pergola, asked)
    assert result.exit_code == 2
    assert "'--like' is now called '--reproduce'" in result.stderr
    assert "There is no record of version 'shapes/3'" in result.stderr


def test_only_options_of_the_command_are_renamed():
    lines: list[str] = []
    arguments = ["versions", "--like", "3"]
    assert aliases.with_current_names(arguments, lines.append) == arguments
    assert aliases.with_current_names(["run", "--", "--like"], lines.append) == ["run", "--", "--like"]
    assert aliases.with_current_names([], lines.append) == [] and not lines


@pytest.mark.parametrize(
    ("old", "new", "value", "section"),
    [("rehearse", "smoke_test", "rounds = 1", ""), ("min_pictures", "min_images", "7", "retrain")],
)
@pytest.mark.parametrize("place", ["--set", "--config"])
def test_an_old_setting_is_read_as_its_successor(tmp_path, old, new, value, section, place):
    if section:
        text, asked, found = f"[{section}]\n{old} = {value}\n", f"{section}.{old}={value}", (section, new, 7)
    else:
        text, asked, found = f"[{old}]\n{value}\n", f"{old}.{value.replace(' ', '')}", (new, "rounds", 1)
    file = tmp_path / "old.toml"
    file.write_text(text)
    command = [sys.executable, "-m", "pergola.pipelines.commands.cli", "config", place]
    done = subprocess.run([*command, asked if place == "--set" else file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)[found[0]][found[1]] == found[2]
    (line,) = done.stderr.splitlines()
    assert line.startswith("pergola: ") and line.endswith(f"'{old}' is now called '{new}'. {LAST_RELEASE}")
