"""Names of commands and options that were renamed: the old ones work for one more release."""

from __future__ import annotations

from collections.abc import Callable, Sequence

COMMANDS = {"ladder": "compare-architectures"}
OPTIONS = {  # (command, by its current name; old option) -> current option
    ("run", "--like"): "--reproduce",
    ("serve", "--real"): "--stock-server",
    ("feedback", "--ask"): "--sample",
}


def with_current_names(arguments: Sequence[str], report: Callable[[str], None]) -> list[str]:
    """The arguments of `pergola` with current names; calls `report` with a line for each old one.

    >>> with_current_names(["run", "--like=3"], report=lambda line: None)
    ['run', '--reproduce=3']
    """
    if not arguments:
        return []
    command = _current(arguments[0], COMMANDS.get(arguments[0]), report)
    current, options = [command], True
    for argument in arguments[1:]:
        options = options and argument != "--"
        name, equals, value = argument.partition("=")
        new = OPTIONS.get((command, name)) if options else None
        current.append(_current(name, new, report) + equals + value)
    return current


def _current(old: str, new: str | None, report: Callable[[str], None]) -> str:
    if new is None:
        return old
    report(f"'{old}' is now called '{new}'. The old name works for one more release.")
    return new
