"""The commands for Kubeflow: compile, submit, runs, schedule.

`register` adds them to the command line. Nothing heavy is imported before a command runs. As with every
command: exit status 0 success, 1 failure (with --wait, also of the run), 2 usage error; with --json, stdout
holds one JSON document.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pergola.components.errors import InputError
from pergola.pipelines.commands.command import PATH, print_status, with_json

if TYPE_CHECKING:
    from pergola.components.settings import Settings
    from pergola.pipelines.kubeflow.client.connection import KubeflowConnection
    from pergola.pipelines.kubeflow.cluster import ClusterSettings

PIPELINES = click.Choice(["training", "retraining"])


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (compile_, submit, runs, schedule):
        group.add_command(command)


def _settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for what is compiled into a pipeline; the function receives `settings` and `cluster`."""

    @click.option("--config", type=PATH, help="Settings file (TOML); see `pergola config`.")
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Override one setting. Repeatable.",
    )
    @click.option(
        "--cluster", "cluster_file", type=PATH, help="Cluster file (TOML): image, memory and more for pods."
    )
    @click.option("--image", help="Container image of all steps; overrides --cluster.")
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
    """Options for address and credentials of Kubeflow; the function receives `connection`."""

    @click.option("--host", envvar="KF_PIPELINES_ENDPOINT", show_envvar=True,
                  help="URL of Kubeflow Pipelines.")  # fmt: skip
    @click.option("--namespace", help="Namespace of the profile, on multi-user Kubeflow.")
    @click.option("--token-file", type=PATH, help="File with a bearer token. Default: $PERGOLA_KFP_TOKEN.")
    @click.option("--ca-file", type=PATH, help="File with the CA certificate of the server.")
    @functools.wraps(function)
    def wrapped(
        host: str | None, namespace: str | None, token_file: Path | None, ca_file: Path | None, **rest: Any
    ) -> Any:
        from pergola.pipelines.kubeflow.client.connection import KubeflowConnection

        connection = KubeflowConnection(host, namespace, token_file=token_file, ca_file=ca_file)
        return function(connection=connection, **rest)

    return wrapped


@click.command("compile")
@click.option(
    "-o", "--out", type=PATH, default=Path("pipeline.yaml"), show_default=True, help="File to write."
)
@click.option(
    "--pipeline", type=PIPELINES, default="training", show_default=True, help="Pipeline to compile."
)
@_settings_options
@with_json
def compile_(
    out: Path, pipeline: str, settings: Callable[[], Settings], cluster: Callable[[], ClusterSettings]
) -> tuple[Any, str]:
    """Compile the pipeline for Kubeflow Pipelines.

    \b
    pergola compile -o training.yaml --image registry.example/pergola:0.2.0-cpu
    """
    from pergola.pipelines.kubeflow import compiled

    path = compiled.compile_to(out, pipeline, settings=settings(), cluster=cluster())
    return {"path": str(path), "pipeline": pipeline}, f"Wrote the {pipeline} pipeline to {path}."


@click.command()
@click.argument("dataset", required=False)
@click.option("--model", help="Name of the released model.")
@click.option(
    "--pipeline", type=PIPELINES, default="training", show_default=True, help="Pipeline to compile."
)
@click.option("--package", type=PATH, help="Run this compiled pipeline instead.")
@click.option("--uploaded", help="Run this uploaded pipeline instead.")
@click.option("--version", help="Version of the uploaded pipeline. Default: the newest.")
@click.option("--param", "texts", multiple=True, metavar="NAME=VALUE", help="Pipeline parameter. Repeatable.")
@click.option("--no-release", is_flag=True, help="Register a version, but leave the champion as it is.")
@click.option("--name", help="Name of the run.")
@click.option("--experiment", default="pergola", show_default=True, help="Experiment of the run.")
@click.option("--create-experiment", is_flag=True, help="Create the experiment if it does not exist.")
@click.option("--service-account", help="Service account of the pods. Default: the cluster's.")
@click.option(
    "--caching/--no-caching", default=None, help="Reuse the results of steps whose inputs did not change."
)
@click.option("--pipeline-root", help="Location of artifacts, such as s3://bucket/path.")
@click.option("--wait", is_flag=True, help="Wait until the run has finished.")
@click.option(
    "--timeout", "timeout_s", type=float, default=86400.0, show_default=True, help="Seconds to wait."
)
@_settings_options
@_connection_options
@with_json
def submit(
    dataset: str | None, model: str | None, pipeline: str, no_release: bool, wait: bool, timeout_s: float,
    texts: tuple[str, ...], settings: Callable[[], Settings], cluster: Callable[[], ClusterSettings],
    connection: KubeflowConnection,
    package: Path | None, uploaded: str | None, **options: Any,
) -> tuple[Any, str]:  # fmt: skip
    """Run the pipeline on Kubeflow.

    DATASET is a path inside the pods.

    \b
    pergola submit /workspace/leaves --model leaves --host http://localhost:8080 --wait
    pergola submit --package training.yaml --param dataset=/workspace/leaves --param model=leaves
    """
    from pergola.pipelines.kubeflow.client import submit as runs
    from pergola.pipelines.kubeflow.client import wait as waiting

    parameters = _parameters(texts, dataset, model) | ({"hold": True} if no_release else {})
    request = runs.Request(package, uploaded, parameters=parameters, **options)
    if package and uploaded:
        raise InputError("--package and --uploaded exclude each other. Give one of them.")
    if package or uploaded:
        run = runs.submit(connection, request)
    else:
        run = runs.submit_ours(connection, pipeline, settings(), cluster(), request)
    print_status(f"Created run {run.id}. {run.link}".rstrip())
    if not wait:
        return run.to_json(), run.id
    try:
        outcome = waiting.wait(connection, run.id, say=print_status, timeout_s=timeout_s)
    except KeyboardInterrupt:
        print_status(f"Run {run.id} continues on the cluster.")
        raise
    for failure in outcome.failures:
        print_status(failure.text())
    return outcome.to_json(), f"{run.id} {outcome.run.state}"


@click.command()
@click.option("--experiment", help="Only runs of this experiment.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Maximum number of runs."
)
@click.option("--workspace", type=PATH, help="List the runs of this workspace instead, with their outcomes.")
@_connection_options
@with_json
def runs(
    experiment: str | None, limit: int, workspace: Path | None, connection: KubeflowConnection
) -> tuple[Any, str]:
    """List runs on Kubeflow or in a workspace.

    \b
    pergola runs --workspace pergola-work
    pergola runs --host http://localhost:8080
    pergola runs --experiment pergola --limit 5 --json
    """
    if workspace is not None:
        from pergola.components.workspace import Workspace
        from pergola.pipelines.local import runs as local

        return local.listed(Workspace(workspace), limit)
    from pergola.pipelines.kubeflow.client import submit as front

    found = front.runs(connection, experiment=experiment, limit=limit)
    return [run.to_json() for run in found], front.table(found)


@click.group()
def schedule() -> None:
    """Manage scheduled runs on Kubeflow from a file.

    \b
    pergola schedule apply schedules.toml --host http://localhost:8080
    pergola schedule pause nightly
    """


@schedule.command()
@click.argument("file", type=PATH)
@click.option("--prune", is_flag=True, help="Delete schedules of this set that are no longer in the file.")
@_connection_options
@with_json
def apply(file: Path, prune: bool, connection: KubeflowConnection) -> tuple[Any, str]:
    """Create or update the cluster's schedules from FILE. Only changed schedules are replaced."""
    from pergola.pipelines.kubeflow.client import schedule as front
    from pergola.pipelines.kubeflow.client import schedule_file

    done = front.apply(connection, schedule_file.load(file), prune=prune)
    return [vars(one) for one in done], "\n".join(one.text() for one in done)


@schedule.command("list")
@_connection_options
@with_json
def list_(connection: KubeflowConnection) -> tuple[Any, str]:
    """List all schedules, including those not created by pergola."""
    from pergola.pipelines.kubeflow.client import schedule as front

    found = front.list_schedules(connection)
    return found, front.table(found)


def _on_names(action: str, help: str) -> click.Command:
    """A command that changes schedules given by name."""

    @click.argument("names", nargs=-1, required=True)
    @_connection_options
    @with_json
    def work(names: tuple[str, ...], connection: KubeflowConnection) -> tuple[Any, str]:
        from pergola.pipelines.kubeflow.client import schedule as front

        done = getattr(front, action)(connection, list(names))
        return [vars(one) for one in done], "\n".join(one.text() for one in done)

    return click.command(action, help=help)(work)


for _action, _help in {
    "delete": "Delete schedules by name or id.",
    "pause": "Pause schedules until they are resumed or applied again.",
    "resume": "Resume paused schedules.",
}.items():
    schedule.add_command(_on_names(_action, _help))


def _parameters(texts: tuple[str, ...], dataset: str | None, model: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--param must be NAME=VALUE, got '{text}'.")
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
