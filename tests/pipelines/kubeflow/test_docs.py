"""docs/kubeflow.md agrees with the code."""

import dataclasses
import re
import textwrap
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pergola.components import records
from pergola.pipelines.commands import kubeflow
from pergola.pipelines.definition import TRAINING
from pergola.pipelines.kubeflow import cluster, compiled
from pergola.pipelines.kubeflow.client import schedule_file, submit
from pergola.pipelines.kubeflow.cluster import ClusterSettings

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PAGE = (Path(__file__).parents[3] / "docs" / "kubeflow.md").read_text()


def block(first: str) -> str:
    """The indented block that begins with a line."""
    begin = PAGE.index(f"    {first}")
    return textwrap.dedent(re.match(r"(    [^\n]*\n|\n)+", PAGE[begin:]).group())


def test_the_schedule_file_loads(tmp_path):
    (tmp_path / "leaves.toml").write_text(block("# leaves.toml"))
    plan = schedule_file.load(tmp_path / "leaves.toml")
    assert (plan.name, plan.schedules[0].name) == ("leaves", "leaves-nightly")


def test_the_schedules_keys_and_defaults_are_listed():
    fields = {field.name: field.default for field in dataclasses.fields(schedule_file.Schedule)}
    listed = [
        name
        for name in fields
        if re.search(rf"`{name}`|^    {name} = |\[schedule.{name}\]|\b{name} = ", PAGE, re.M)
    ]
    assert set(fields) - set(listed) == set()
    assert (fields["enabled"], fields["catch_up"], fields["max_concurrency"]) == (True, False, 1)


def test_the_cluster_file_names_every_key_with_its_default():
    table = tomllib.loads(block("image = "))
    assert set(table) == {field.name for field in dataclasses.fields(ClusterSettings)}
    given = records.from_dict(ClusterSettings, table, "docs")
    for name in set(table) - {"image", "train_image", "pull_secret"}:
        assert getattr(given, name) == getattr(ClusterSettings(), name), name


def test_the_keys_of_the_secret_are_listed_by_need():
    for need, keys in cluster.SECRET_KEYS.items():
        (row,) = re.findall(rf"^\| {need} \| (.*) \|$", PAGE, re.M)
        assert need == "store" or set(re.findall(r"`([A-Z_]+)`", row)) == set(keys), need
    assert all(key.startswith("AWS_") for key in cluster.SECRET_KEYS["store"])


def test_the_tasks_are_listed_with_their_steps():
    for group in dict.fromkeys(step.group for step in TRAINING.steps):
        steps = [step.name for step in TRAINING.steps if step.group == group]
        assert f"| `{group}` | {', '.join(steps)} |" in PAGE


def test_the_parameters_are_listed(tmp_path):
    spec = submit.read_spec(compiled.compile_to(tmp_path / "training.yaml"))
    declared = spec["root"]["inputDefinitions"]["parameters"]
    table = PAGE[PAGE.index("| parameter | meaning |") : PAGE.index("There is one struct per section")]
    listed = {
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")
    }
    assert listed == set(declared)


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
