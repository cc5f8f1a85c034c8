"""What the commands share: common options, how they answer, how they end.

Exit status: 0 done, 1 something broke, 2 the caller's mistake; a command may have further ones (`Answer`).
With --json, stdout holds one JSON document and nothing else; all other words go to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pergola import extras
from pergola.components.errors import InputError, PergolaError

if TYPE_CHECKING:
    from pergola.components.settings import Settings
    from pergola.components.workspace import Workspace
    from pergola.pipelines.local.progress import Show

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
        from pergola.components import settings as config

        return config.load(self.config, self.overrides)

    def open_workspace(self) -> Workspace:
        """The workspace, whether it exists or not."""
        from pergola.components.workspace import Workspace

        return Workspace(self.workspace)


@dataclass(frozen=True)
class Answer:
    """What a command answers when it ends with a status of its own."""

    data: Any
    status: int


def with_options(function: Callable[..., Any]) -> click.Command:
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

    return click.command()(wrapped)


def with_json(function: Callable[..., tuple[Any, str]]) -> Callable[..., None]:
    """Adds --json to a command whose function gives data and words, one of which is printed.

    Data with "ok": false ends with status 1.
    """

    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, words on stderr.")
    @functools.wraps(function)
    def wrapped(as_json: bool, **arguments: Any) -> None:
        with _json_only(as_json, stopped="pergola: stopped.") as answer:
            data, words = function(**arguments)
            if words and not as_json:
                click.echo(words)
            broke = isinstance(data, dict) and not data.get("ok", True)
            answer(Answer(data, 1) if broke else data)

    return wrapped


def status_of(error: PergolaError) -> int:
    """Exit status: 2 for the caller's mistake, 1 for what broke."""
    return 2 if isinstance(error, InputError) else 1


def say(text: str) -> None:
    """One line for a person."""
    click.echo(text, err=True)


def typed() -> str:
    """The command as a person typed it."""
    return shlex.join(["pergola", *sys.argv[1:]])


def show() -> Show:
    """A display that stays, with warnings of ours on it."""
    import logging

    from pergola.pipelines.local.native import own_stderr
    from pergola.pipelines.local.progress import Show

    stream = own_stderr()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("pergola: %(message)s"))
    logging.getLogger("pergola").addHandler(handler)
    return Show(stream)


def _command() -> str:
    """The command in progress, such as "pergola schedule apply"."""
    names: list[str] = []
    context = click.get_current_context(silent=True)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name or "")
        context = context.parent
    return " ".join(["pergola", *names])


@contextlib.contextmanager
def _json_only(
    as_json: bool, stopped: str = "pergola: stopped; the same command goes on from here."
) -> Iterator[Callable[[Any], None]]:
    """Keep stdout for the JSON document; end the process with the right status on an error."""
    answers: list[Any] = []
    status = 0
    try:
        with (
            contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(),
            extras.explained(_command()),
        ):
            yield answers.append
    except PergolaError as error:
        status = status_of(error)
        say(f"pergola: {error}")
        answers = [{"error": str(error), "status": status}]
    except KeyboardInterrupt:
        say(stopped)
        status = 130
        answers = [{"error": "stopped", "status": status}]
    else:
        if isinstance(answers[0], Answer):
            status, answers = answers[0].status, [answers[0].data]
    if as_json:
        click.echo(json.dumps(answers[0], ensure_ascii=False))
    if status:
        sys.exit(status)
