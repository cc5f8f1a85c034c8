"""The commands. Heavy imports happen inside them, so that --help answers at once.

Exit status: 0 done (a rejected model is done), 1 something broke, 2 the caller's mistake.
With --json, stdout holds one JSON document and nothing else; all other words go to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.errors import InputError, PergolaError
from pipelines import kubeflow_commands, release

if TYPE_CHECKING:
    from pipelines.config import Settings
    from pipelines.show import Show
    from pipelines.workspace import Workspace

DEFAULT_WORKSPACE = Path("pergola-work")
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Options:
    """What the common options said."""

    workspace: Path
    config: Path | None
    overrides: tuple[str, ...]
    json: bool

    def settings(self) -> Settings:
        """The settings in force."""
        from pipelines import config

        return config.load(self.config, self.overrides)

    def open_workspace(self) -> Workspace:
        """The workspace, whether it exists or not."""
        from pipelines.workspace import Workspace

        return Workspace(self.workspace)


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
        first = ["run", "validate", "serve", "predict", "versions", "config"]
        return [*first, *(name for name in sorted(self.commands) if name not in first)]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="pergola")
def pergola() -> None:
    """From a folder of pictures to a classifier that people can rely on.

    \b
    pergola run PHOTOS           validate, split, train, evaluate, gate, register, publish
    pergola serve                answer TF-Serving's protocol, gRPC on 8500 and REST on 8501
    pergola predict leaf.jpg     ask the server: label, probability, model version

    PHOTOS is a folder with a folder of pictures for each class, a CSV or Parquet list
    (path,label[,split]), IDX files, CIFAR batches, an .npz, or an archive of a folder.
    Everything made goes into the workspace, ./pergola-work unless --workspace says otherwise.
    """


def command(function: Callable[..., Any]) -> click.Command:
    """A command with the common options; what the function returns is printed as JSON if asked."""

    @click.option("--workspace", type=PATH, default=DEFAULT_WORKSPACE, show_default=True,
                  envvar="PERGOLA_WORKSPACE", help="Folder of runs, models and registry.")  # fmt: skip
    @click.option("--config", type=PATH, help="Settings, TOML; see `pergola config`.")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
                  help="Change one setting; may be repeated.")  # fmt: skip
    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, words on stderr.")
    @functools.wraps(function)
    def wrapped(
        workspace: Path, config: Path | None, overrides: tuple[str, ...], as_json: bool, **arguments: Any
    ) -> None:
        options = Options(workspace, config, overrides, as_json)
        with _json_only(as_json) as answer:
            answer(function(options, **arguments))

    return pergola.command()(wrapped)


@command
@click.argument("photos", type=PATH)
@click.option("--force", metavar="STEP", help="Redo from this step on, even if nothing changed.")
def run(options: Options, photos: Path, force: str | None) -> dict[str, Any]:
    """Turn PHOTOS into a served classifier: the main job.

    \b
    pergola run leaves/
    pergola run leaves.zip --set train.epochs=20 --workspace work
    pergola run leaves/ --force train --json

    What did not change is not done again; a run that was stopped goes on where it was.
    """
    from pipelines import local

    settings, workspace = options.settings(), options.open_workspace()
    result = local.run(photos, settings, workspace, force=force, show=_show(), command=_typed())
    if not options.json:
        click.echo(result.words())
    return result.to_json()


@command
@click.argument("photos", type=PATH)
def validate(options: Options, photos: Path) -> dict[str, Any]:
    """Scan and check PHOTOS, and do nothing else.

    Prints what was found and where the page with pictures is. Exit status 0 also when there are
    critical findings; `ok` in the JSON says.
    """
    from pipelines import local

    settings, workspace = options.settings(), options.open_workspace()
    result = local.validate(photos, settings, workspace, show=_show())
    if not options.json:
        click.echo(result.words())
    return result.to_json()


@command
@click.option("--model", help="Only this model; otherwise all of the workspace.")
@click.option("--port", type=int, default=8500, show_default=True, help="gRPC; 0 takes a free one.")
@click.option("--rest-port", type=int, default=8501, show_default=True, help="REST; 0 takes a free one.")
@click.option("--real", is_flag=True, help="Run the stock tensorflow_model_server, if it is on the PATH.")
def serve(options: Options, model: str | None, port: int, rest_port: int, real: bool) -> dict[str, Any]:
    """Serve the workspace's models by TF-Serving's protocol, until stopped.

    New versions are picked up while it runs. Ctrl-C or SIGTERM finishes what is in flight.
    """
    from pipelines import serve as front

    listen = front.Listen(port, rest_port)
    return front.serve(options.open_workspace(), listen, model=model, real=real, say=_say)


@command
@click.argument("pictures", nargs=-1, required=True, type=PATH)
@click.option("--model", help="Model to ask; needed when the workspace has several.")
@click.option("--server", help="gRPC address, such as localhost:8500; default: the workspace's server.")
@click.option("--version", "version", type=int, help="Ask this version; default: the latest.")
@click.option("--top", type=int, default=3, show_default=True, help="How many classes to name.")
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="Seconds to wait.")
def predict(options: Options, pictures: tuple[Path, ...], **asked: Any) -> list[dict[str, Any]]:
    """Ask a running server what PICTURES show: label, probability, model version."""
    from pipelines import ask

    answers = ask.predict(options.open_workspace(), pictures, **asked)
    if not options.json:
        click.echo(ask.table(answers))
    return answers


@command
@click.option("--model", help="Only this model.")
def versions(options: Options, model: str | None) -> dict[str, Any]:
    """List what is registered and published, and which version is the champion."""
    from pipelines import versions as listing

    found = listing.versions(options.open_workspace(), model)
    if not options.json:
        click.echo(listing.table(found))
    return found


@command
@click.argument("picture", type=PATH)
@click.option("--model", help="Model to tune; needed when the workspace has several.")
@click.option("--concurrency", type=int, default=32, show_default=True, help="Callers at the same time.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="How long each trial lasts.")
@click.option("--max-p99-ms", type=float, help="No setting whose slowest percent takes longer.")
@click.option("--output", type=PATH, default=Path("batching.config"), show_default=True)
def tune_batching(options: Options, picture: Path, **asked: Any) -> dict[str, Any]:
    """Find the server's best batching parameters by measuring it with PICTURE.

    Writes the file for --batching_parameters_file; the server must not be busy with anything else.
    """
    from pipelines import batching

    found = batching.tune(options.open_workspace(), picture, say=_say, **asked)
    if not options.json:
        click.echo(found["summary"])
    return found


@command
def config(options: Options) -> dict[str, Any]:
    """Print the settings in force as TOML, with a comment each.

    \b
    pergola config > pergola.toml
    pergola run PHOTOS --config pergola.toml
    """
    from components import records
    from pipelines import config as settings

    found = options.settings()
    if not options.json:
        click.echo(settings.to_toml(found), nl=False)
    return records.to_dict(found)


def status_of(error: PergolaError) -> int:
    """Exit status: 2 for the caller's mistake, 1 for what broke."""
    return 2 if isinstance(error, InputError) else 1


release.register(pergola)
kubeflow_commands.register(pergola)


def main() -> None:
    """The console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    pergola(windows_expand_args=False)


@contextlib.contextmanager
def _json_only(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Keep stdout for the JSON document; end the process with the right status on an error."""
    answers: list[Any] = []
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            yield answers.append
    except PergolaError as error:
        status = status_of(error)
        click.echo(f"pergola: {error}", err=True)
        answers = [{"error": str(error), "status": status}]
    except KeyboardInterrupt:
        click.echo("pergola: stopped; the same command goes on from here.", err=True)
        status = 130
        answers = [{"error": "stopped", "status": status}]
    else:
        status = 0
    if as_json:
        click.echo(json.dumps(answers[0], ensure_ascii=False))
    if status:
        sys.exit(status)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _typed() -> str:
    return shlex.join(["pergola", *sys.argv[1:]])


def _show() -> Show:
    """A display that stays, with warnings of ours on it."""
    import logging

    from pipelines.native import own_stderr
    from pipelines.show import Show

    stream = own_stderr()
    for package in ("pipelines", "components", "serving"):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("pergola: %(message)s"))
        logging.getLogger(package).addHandler(handler)
    return Show(stream)


if __name__ == "__main__":
    main()
