"""The commands. Heavy imports happen inside them, so that --help answers at once.

Exit status: 0 done (a rejected model is done), 1 something broke, 2 the caller's mistake, 3 drift.
With --json, stdout holds one JSON document and nothing else; all other words go to stderr.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pergola.components.errors import InputError, PergolaError
from pergola.pipelines.commands import data, experiments, kubeflow, monitoring, release
from pergola.pipelines.commands.command import (
    PATH,
    Answer,
    Options,
    say,
    show,
    status_of,
    typed,
    with_options,
)


class Group(click.Group):
    """Commands whose errors are a sentence and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(context)
        except PergolaError as error:
            click.echo(f"pergola: {error}", err=True)
            context.exit(status_of(error))

    def list_commands(self, context: click.Context) -> list[str]:
        """Those that a newcomer needs come first."""
        first = ["run", "validate", "serve", "predict", "versions", "config",
                 "drift", "feedback", "retrain", "lineage"]  # fmt: skip
        return [*first, *(name for name in sorted(self.commands) if name not in first)]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pergola-ml")
def pergola() -> None:
    """From a folder of images to a classifier that people can rely on.

    \b
    pergola run DATASET           validate, split, train, evaluate, gate, register, publish
    pergola serve                answer TF-Serving's protocol, gRPC on 8500 and REST on 8501
    pergola predict leaf.jpg     ask the server: label, probability, model version

    DATASET is a folder with a folder of images for each class, a CSV or Parquet list
    (path,label[,split]), IDX files, CIFAR batches, an .npz, or an archive of a folder.
    Everything made goes into the workspace, ./pergola-work unless --workspace says otherwise.
    """


def command(function: Callable[..., Any]) -> click.Command:
    """A command of pergola's with the common options."""
    made = with_options(function)
    pergola.add_command(made)
    return made


@command
@click.argument("dataset", type=PATH, required=False)
@click.option("--force", metavar="STEP", help="Redo from this step on, even if nothing changed.")
@click.option("--like", metavar="VERSION", help="Make this version again and compare; nothing is released.")
def run(
    options: Options, dataset: Path | None, force: str | None, like: str | None
) -> dict[str, Any] | Answer:
    """Turn DATASET into a served classifier: the main job.

    \b
    pergola run leaves/
    pergola run leaves.zip --set train.epochs=20 --workspace work
    pergola run leaves/ --force train --json
    pergola run --like 3

    What did not change is not done again; a run that was stopped goes on where it was. --like takes settings
    and, unless named, DATASET from a version, checks that the images are the same, and ends with status 1
    when it comes to another decision.
    """
    from pergola.pipelines.local import run as local
    from pergola.pipelines.local.reproduce import Like
    from pergola.pipelines.monitoring.lineage import place_of

    workspace = options.open_workspace()
    settings, version = options.settings(), None
    if like is not None:
        if options.config or options.overrides:
            raise InputError("--like takes the settings of a version: leave --config and --set out.")
        version = Like.of(place_of(workspace, like))
        settings, dataset = version.settings(), dataset or Path(version.origin.source)
    if dataset is None:
        raise InputError("DATASET is missing: name a folder of images, a list or an archive.")
    result = local.run(dataset, settings, workspace, force=force, show=show(), command=typed(), like=version)
    if not options.json:
        click.echo(result.words())
    failed = result.again is not None and not result.again.same_decision
    return Answer(result.to_json(), 1) if failed else result.to_json()


@command
@click.argument("dataset", type=PATH)
@click.option("--relabel", type=PATH, metavar="FILE", help="Write the suspicious labels here, to be edited.")
def validate(options: Options, dataset: Path, relabel: Path | None) -> dict[str, Any]:
    """Scan and check DATASET, and do nothing else.

    Prints what was found and where the page with images is. Exit status 0 also when there are
    critical findings; `ok` in the JSON says.

    \b
    pergola validate DATASET --relabel relabel.csv      the labels, most suspicious first
    …  write the right classes into its last column, or (remove)
    pergola run DATASET --set scan.relabel=relabel.csv
    """
    from pergola.pipelines.local import run as local

    settings, workspace = options.settings(), options.open_workspace()
    result = local.validate(dataset, settings, workspace, show=show(), relabel=relabel)
    if not options.json:
        click.echo(result.words())
    return result.to_json()


@command
@click.option("--model", help="Only this model; otherwise all of the workspace.")
@click.option("--port", type=int, default=8500, show_default=True, help="gRPC; 0 takes a free one.")
@click.option("--rest-port", type=int, default=8501, show_default=True, help="REST; 0 takes a free one.")
@click.option("--real", is_flag=True, help="Run the stock tensorflow_model_server, if it is on the PATH.")
@click.option(
    "--log-requests",
    "log_share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of requests to keep, with their images, for `drift` and `feedback`; 1 is all.",
)
@click.option(
    "--log-max-mb",
    type=click.IntRange(1),
    default=1024,
    show_default=True,
    help="Megabytes of requests to keep a model; the oldest go first.",
)
def serve(
    options: Options,
    model: str | None,
    port: int,
    rest_port: int,
    real: bool,
    log_share: float,
    log_max_mb: int,
) -> dict[str, Any]:
    """Serve the workspace's models by TF-Serving's protocol, until stopped.

    New versions are picked up while it runs. Ctrl-C or SIGTERM finishes what is in flight.
    """
    from pergola.pipelines.commands import serve as front

    listen = front.Listen(port, rest_port)
    log = front.Log(log_share, log_max_mb * 1_000_000)
    return front.serve(options.open_workspace(), listen, model=model, real=real, say=say, log=log)


@command
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--model", help="Model to ask; needed when the workspace has several.")
@click.option("--server", help="gRPC address, such as localhost:8500; default: the workspace's server.")
@click.option("--version", "version", type=int, help="Ask this version; default: the latest.")
@click.option("--top", type=int, default=3, show_default=True, help="How many classes to name.")
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="Seconds to wait.")
def predict(options: Options, images: tuple[Path, ...], **asked: Any) -> list[dict[str, Any]]:
    """Ask a running server what IMAGES show: label, probability, model version."""
    from pergola.pipelines.commands import predict as ask

    answers = ask.predict(options.open_workspace(), images, **asked)
    if not options.json:
        click.echo(ask.table(answers))
    return answers


@command
@click.option("--model", help="Only this model.")
def versions(options: Options, model: str | None) -> dict[str, Any]:
    """List what is registered and published, and which version is the champion."""
    from pergola.pipelines.release import versions as listing

    found = listing.versions(options.open_workspace(), model)
    if not options.json:
        click.echo(listing.table(found))
    return found


@command
@click.argument("image", type=PATH)
@click.option("--model", help="Model to tune; needed when the workspace has several.")
@click.option("--concurrency", type=int, default=32, show_default=True, help="Callers at the same time.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="How long each trial lasts.")
@click.option("--max-p99-ms", type=float, help="No setting whose slowest percent takes longer.")
@click.option("--output", type=PATH, default=Path("batching.config"), show_default=True)
def tune_batching(options: Options, image: Path, **asked: Any) -> dict[str, Any]:
    """Find the server's best batching parameters by measuring it with IMAGE.

    Writes the file for --batching_parameters_file; the server must not be busy with anything else.
    """
    from pergola.pipelines.commands import tune_batching as batching

    found = batching.tune(options.open_workspace(), image, say=say, **asked)
    if not options.json:
        click.echo(found["summary"])
    return found


@command
def config(options: Options) -> dict[str, Any]:
    """Print the settings in force as TOML, with a comment each.

    \b
    pergola config > pergola.toml
    pergola run DATASET --config pergola.toml
    """
    from pergola.components import records, settings

    found = options.settings()
    if not options.json:
        click.echo(settings.to_toml(found), nl=False)
    return records.to_dict(found)


release.register(pergola)
monitoring.register(pergola)
experiments.register(pergola)
kubeflow.register(pergola)
data.register(pergola)


def main() -> None:
    """The console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    pergola(windows_expand_args=False)


if __name__ == "__main__":
    main()
