"""docs/kubeflow.md says what is so."""

import dataclasses
import re
import textwrap
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pergola.components import records
from pergola.pipelines.commands import kubeflow
from pergola.pipelines.kubeflow import cluster, schedule_file
from pergola.pipelines.kubeflow.cluster import ClusterSettings

PAGE = (Path(__file__).parents[3] / "docs" / "kubeflow.md").read_text()


def block(first: str) -> str:
    """The indented block that begins with a line."""
    begin = PAGE.index(f"    {first}")
    return textwrap.dedent(re.match(r"(    [^\n]*\n|\n)+", PAGE[begin:]).group())


def test_the_schedule_file_loads(tmp_path):
    (tmp_path / "leaves.toml").write_text(block("# leaves.toml"))
    plan = schedule_file.load(tmp_path / "leaves.toml")
    assert (plan.name, plan.schedules[0].name) == ("leaves", "leaves-nightly")


def test_the_schedules_keys_and_defaults_are_told():
    fields = {field.name: field.default for field in dataclasses.fields(schedule_file.Schedule)}
    told = [
        name
        for name in fields
        if re.search(rf"`{name}`|^    {name} = |\[schedule.{name}\]|\b{name} = ", PAGE, re.M)
    ]
    assert set(fields) - set(told) == set()
    assert (fields["enabled"], fields["catch_up"], fields["max_concurrency"]) == (True, False, 1)


def test_the_cluster_file_names_every_key_with_its_default():
    table = tomllib.loads(block("image = "))
    assert set(table) == {field.name for field in dataclasses.fields(ClusterSettings)}
    given = records.from_dict(ClusterSettings, table, "docs")
    for name in set(table) - {"image", "train_image", "pull_secret"}:
        assert getattr(given, name) == getattr(ClusterSettings(), name), name


def test_the_secrets_keys_are_told():
    assert all(f"`{key}`" in PAGE for key in cluster.SECRET_KEYS)


@pytest.mark.parametrize("command", [["compile"], ["submit"], ["runs"], ["schedule"], ["schedule", "apply"]])
def test_the_commands_and_options_exist(command):
    import click

    group = click.Group("pergola")
    kubeflow.register(group)
    help = CliRunner().invoke(group, [*command, "--help"]).output
    assert help.startswith("Usage: ")
    for line in re.findall(rf"pergola {' '.join(command)}( [^`\n]*)", PAGE):
        for option in re.findall(r"--[a-z-]+", line):
            assert option in help, (command, option)
