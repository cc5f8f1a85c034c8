"""What all commands share: common options, output as text or JSON, and exit status.

Exit status: 0 success, 1 failure, 2 usage error; a command can define further ones (`CommandResult`).
With --json, stdout holds one JSON document and nothing else; messages go to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from pergola import extras
from pergola.components.data.sources.settings import LAYOUTS
from pergola.components.errors import InputError, PergolaError
from pergola.components.outside_text import visible, visible_json

if TYPE_CHECKING:
    from pergola.components.settings import Settings
    from pergola.components.workspace import Workspace
    from pergola.pipelines.local.progress import Display

DEFAULT_WORKSPACE = Path("pergola-work")
PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class CommonOptions:
    """Values of the options that most commands have."""

    workspace: Path
    config: Path | None
    overrides: tuple[str, ...]
    json: bool

    def settings(self, layout: str | None = None) -> Settings:
        """Settings from the defaults, --config, --set and --layout."""
        from pergola.components import settings as config

        chosen = [f"scan.layout={layout}"] if layout else []
        return config.load(self.config, [*self.overrides, *chosen])

    def open_workspace(self) -> Workspace:
        """The workspace. It need not exist yet."""
        from pergola.components.workspace import Workspace

        return Workspace(self.workspace)


@dataclass(frozen=True)
class CommandResult:
    """Output of a command that chooses its own exit status."""

    data: Any
    status: int


def with_options(function: Callable[..., Any]) -> click.Command:
    """A command with the common options. What the function returns is printed with --json."""

    @click.option("--workspace", type=PATH, default=DEFAULT_WORKSPACE, show_default=True,
                  envvar="PERGOLA_WORKSPACE", help="Folder with runs, models and the registry.")  # fmt: skip
    @click.option("--config", type=PATH, help="Settings file (TOML); see `pergola config`.")
    @click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE",
                  help="Override one setting. Repeatable.")  # fmt: skip
    @click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout; messages go to stderr.")
    @functools.wraps(function)
    def wrapped(
        workspace: Path, config: Path | None, overrides: tuple[str, ...], as_json: bool, **arguments: Any
    ) -> None:
        options = CommonOptions(workspace, config, overrides, as_json)
        with _json_only(as_json) as answer:
            answer(function(options, **arguments))

    return click.command()(wrapped)


layout_option = click.option(
    "--layout", type=click.Choice(LAYOUTS), help="What the outer folders are; short for --set scan.layout=…"
)


def with_json(function: Callable[..., tuple[Any, str]]) -> Callable[..., None]:
    """Adds --json to a command whose function returns data and text, one of which is printed.

    Data with "ok": false ends with status 1.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout; messages go to stderr.")
    @functools.wraps(function)
    def wrapped(as_json: bool, **arguments: Any) -> None:
        with _json_only(as_json, stopped="pergola: stopped.") as answer:
            data, text = function(**arguments)
            if text and not as_json:
                echo(text)
            failed = isinstance(data, dict) and not data.get("ok", True)
            answer(CommandResult(data, 1) if failed else data)

    return wrapped


def status_of(error: PergolaError) -> int:
    """Exit status: 2 for a usage error, 1 for a failure."""
    return 2 if isinstance(error, InputError) else 1


def print_status(text: str) -> None:
    """Print one line to stderr."""
    click.echo(visible(text), err=True)


def echo(text: str) -> None:
    """Print text to stdout; names from outside in it cannot steer the terminal."""
    click.echo(visible(text))


def command_line() -> str:
    """The command line of this process, for the records."""
    return shlex.join(["pergola", *sys.argv[1:]])


def display() -> Display:
    """Progress on stderr, even while the output of native libraries is redirected; warnings go there too."""
    from pergola.pipelines.local.native import own_stderr
    from pergola.pipelines.local.progress import Display

    if _WARNINGS.stream is not None:
        _WARNINGS.stream.close()  # of a command before, in the same process
    _WARNINGS.stream = own_stderr()
    return Display(_WARNINGS.stream)


class _WarningHandler(logging.Handler):
    """Prints pergola's warnings to `stream`, by default to stderr."""

    stream: TextIO | None = None

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(visible(f"pergola: {record.getMessage()}"), file=self.stream, err=True)


_WARNINGS = _WarningHandler(logging.WARNING)


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
    as_json: bool, stopped: str = "pergola: stopped. Run the same command again to continue."
) -> Iterator[Callable[[Any], None]]:
    """Keep stdout for the JSON document; end the process with the right status on an error."""
    logging.getLogger("pergola").addHandler(_WARNINGS)
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
        print_status(f"pergola: {error}")
        answers = [{"error": str(error), "status": status}]
    except KeyboardInterrupt:
        print_status(stopped)
        status = 130
        answers = [{"error": "stopped", "status": status}]
    else:
        if isinstance(answers[0], CommandResult):
            status, answers = answers[0].status, [answers[0].data]
    if as_json:
        click.echo(visible_json(json.dumps(answers[0], ensure_ascii=False)))
    if status:
        sys.exit(status)
