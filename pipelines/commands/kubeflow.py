"""The commands for Kubeflow: compile, submit, runs, schedule.

`register` adds them to the command line. Nothing heavy is imported before a command runs. As with every
command: exit status 0 done, 1 something broke (a run that failed, with --wait), 2 the caller's mistake;
with --json, stdout holds one JSON document.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pergola.components.errors import InputError
from pergola.pipelines.commands.command import PATH, say, with_json

if TYPE_CHECKING:
    from pergola.components.settings import Settings
    from pergola.pipelines.kubeflow.cluster import ClusterSettings
    from pergola.pipelines.kubeflow.connection import Connection

OURS = click.Choice(["training", "retraining"])


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (compile_, submit, runs, schedule):
        group.add_command(command)


def _settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say what is compiled into a pipeline; the function gets `settings` and `cluster`."""

    @click.option("--config", type=PATH, help="Settings of the steps, TOML; see `pergola config`.")
    @click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting."
    )
    @click.option("--cluster", "cluster_file", type=PATH, help="What pods get, TOML: image, memory, …")
    @click.option("--image", help="Image of all steps; goes before what --cluster says.")
    @functools.wraps(function)
    def wrapped(
        config: Path | None,
        overrides: tuple[str, ...],
        cluster_file: Path | None,
        image: str | None,
        **rest: Any,
    ) -> Any:
        def settings() -> Settings:
            from pergola.components import settings as files

            return files.load(config, overrides)

        return function(settings=settings, cluster=lambda: _cluster(cluster_file, image), **rest)

    return wrapped


def _connection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where Kubeflow is and who asks; the function gets `connection`."""

    @click.option("--host", envvar="KF_PIPELINES_ENDPOINT", show_envvar=True,
                  help="Address of Kubeflow Pipelines, http(s)://…")  # fmt: skip
    @click.option("--namespace", help="Profile, where Kubeflow has many users.")
    @click.option("--token-file", type=PATH, help="Bearer token; otherwise $PERGOLA_KFP_TOKEN.")
    @click.option("--ca-file", type=PATH, help="Certificate of the authority that signed the server's.")
    @functools.wraps(function)
    def wrapped(
        host: str | None, namespace: str | None, token_file: Path | None, ca_file: Path | None, **rest: Any
    ) -> Any:
        from pergola.pipelines.kubeflow.connection import Connection

        connection = Connection(host, namespace, token_file=token_file, ca_file=ca_file)
        return function(connection=connection, **rest)

    return wrapped


@click.command("compile")
@click.option(
    "-o", "--out", type=PATH, default=Path("pipeline.yaml"), show_default=True, help="File to write."
)
@click.option("--pipeline", type=OURS, default="training", show_default=True, help="Which pipeline.")
@_settings_options
@with_json
def compile_(
    out: Path, pipeline: str, settings: Callable[[], Settings], cluster: Callable[[], ClusterSettings]
) -> tuple[Any, str]:
    """Write the pipeline as the file that Kubeflow takes.

    \b
    pergola compile -o training.yaml --image registry.example/pergola:0.1.0-cpu
    """
    from pergola.pipelines.kubeflow import compiled

    path = compiled.compile_to(out, pipeline, settings=settings(), cluster=cluster())
    return {"path": str(path), "pipeline": pipeline}, f"{pipeline} is in {path}."


@click.command()
@click.argument("dataset", required=False)
@click.option("--model", help="Name under which the model is released.")
@click.option(
    "--pipeline", type=OURS, default="training", show_default=True, help="Which of ours to compile."
)
@click.option("--package", type=PATH, help="Run this compiled file instead.")
@click.option("--uploaded", help="Run this uploaded pipeline instead.")
@click.option("--version", help="Of the uploaded pipeline; default: the newest.")
@click.option("--param", "texts", multiple=True, metavar="NAME=VALUE", help="A parameter; may be repeated.")
@click.option("--name", help="Of the run.")
@click.option("--experiment", default="pergola", show_default=True, help="To which the run belongs.")
@click.option("--create-experiment", is_flag=True, help="Make the experiment if it is missing.")
@click.option("--service-account", help="Of the pods; default: the cluster's.")
@click.option("--caching/--no-caching", default=None, help="Reuse steps whose inputs did not change.")
@click.option("--pipeline-root", help="Where artifacts go, such as s3://bucket/path.")
@click.option("--wait", is_flag=True, help="Follow the run to its end.")
@click.option(
    "--timeout", "timeout_s", type=float, default=86400.0, show_default=True, help="Seconds to wait."
)
@_settings_options
@_connection_options
@with_json
def submit(
    dataset: str | None, model: str | None, pipeline: str, wait: bool, timeout_s: float,
    texts: tuple[str, ...], settings: Callable[[], Settings], cluster: Callable[[], ClusterSettings],
    connection: Connection,
    package: Path | None, uploaded: str | None, **asked: Any,
) -> tuple[Any, str]:  # fmt: skip
    """Run the pipeline on Kubeflow with DATASET, a path as pods see it.

    \b
    pergola submit /workspace/leaves --model leaves --host http://localhost:8080 --wait
    pergola submit --package training.yaml --param dataset=/workspace/leaves --param model=leaves
    """
    from pergola.pipelines.kubeflow import submit as runs
    from pergola.pipelines.kubeflow import wait as follow

    parameters = _parameters(texts, dataset, model)
    request = runs.Request(package, uploaded, parameters=parameters, **asked)
    if package and uploaded:
        raise InputError("--package and --uploaded exclude each other. Give one.")
    if package or uploaded:
        run = runs.submit(connection, request)
    else:
        run = runs.submit_ours(connection, pipeline, settings(), cluster(), request)
    say(f"Run {run.id} is created. {run.link}".rstrip())
    if not wait:
        return run.to_json(), run.id
    try:
        outcome = follow.wait(connection, run.id, say=say, timeout_s=timeout_s)
    except KeyboardInterrupt:
        say(f"Run {run.id} goes on without us.")
        raise
    for failure in outcome.failures:
        say(failure.words())
    return outcome.to_json(), f"{run.id} {outcome.run.state}"


@click.command()
@click.option("--experiment", help="Only its runs.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@_connection_options
@with_json
def runs(experiment: str | None, limit: int, connection: Connection) -> tuple[Any, str]:
    """List runs on Kubeflow, the newest first."""
    from pergola.pipelines.kubeflow import submit as front

    found = front.runs(connection, experiment=experiment, limit=limit)
    return [run.to_json() for run in found], front.table(found)


@click.group()
def schedule() -> None:
    """Runs that Kubeflow starts by the clock, from a file."""


@schedule.command()
@click.argument("file", type=PATH)
@click.option("--prune", is_flag=True, help="Delete schedules of this set that the file has no longer.")
@_connection_options
@with_json
def apply(file: Path, prune: bool, connection: Connection) -> tuple[Any, str]:
    """Make the cluster's schedules those of FILE. Twice is as once; only what changed is made anew."""
    from pergola.pipelines.kubeflow import schedule as front
    from pergola.pipelines.kubeflow import schedule_file

    done = front.apply(connection, schedule_file.load(file), prune=prune)
    return [vars(one) for one in done], "\n".join(one.words() for one in done)


@schedule.command("list")
@_connection_options
@with_json
def list_(connection: Connection) -> tuple[Any, str]:
    """List the schedules, also those that were not made by pergola."""
    from pergola.pipelines.kubeflow import schedule as front

    found = front.list_schedules(connection)
    return found, front.table(found)


def _on_names(action: str, words: str) -> click.Command:
    """A command that does something to schedules by name."""

    @click.argument("names", nargs=-1, required=True)
    @_connection_options
    @with_json
    def work(names: tuple[str, ...], connection: Connection) -> tuple[Any, str]:
        from pergola.pipelines.kubeflow import schedule as front

        done = getattr(front, action)(connection, list(names))
        return [vars(one) for one in done], "\n".join(one.words() for one in done)

    return click.command(action, help=words)(work)


for _action, _words in {
    "delete": "Delete schedules by name or id.",
    "pause": "Keep schedules from firing, until resumed or applied again.",
    "resume": "Let paused schedules fire again.",
}.items():
    schedule.add_command(_on_names(_action, _words))


def _parameters(texts: tuple[str, ...], dataset: str | None, model: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--param wants NAME=VALUE, got '{text}'.")
        found[name.strip()] = value
    return {**found, **({"dataset": dataset} if dataset else {}), **({"model": model} if model else {})}


def _cluster(file: Path | None, image: str | None) -> ClusterSettings:
    from pergola.components import records
    from pergola.pipelines.kubeflow.cluster import ClusterSettings

    table: dict[str, Any] = {}
    if file is not None:
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"Cluster file {file} cannot be read as TOML: {error}.") from None
    return records.from_dict(
        ClusterSettings, {**table, **({"image": image} if image else {})}, str(file or "--image")
    )
