"""Generates docs/reference/ from the code: settings and commands."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pergola.components import records, settings
from pergola.pipelines.commands import cli

FOLDER = Path("docs/reference")


def pages() -> Mapping[str, str]:
    """File name -> content."""
    return {"settings.md": settings_page(), "commands.md": commands_page()}


def settings_page() -> str:
    """Every section and key with its default and meaning."""
    lines = [
        "# Settings",
        "",
        "Generated from the code by `scripts/reference`. The defaults are recommendations. Override one with",
        "`--set section.key=value`, or several with a TOML file and `--config`; `pergola config` prints the",
        "current settings as such a file.",
    ]
    for section in dataclasses.fields(settings.Settings):
        values = getattr(settings.Settings(), section.name)
        summary = (type(values).__doc__ or "").strip().splitlines()[0]
        lines += ["", f"## [{section.name}]", "", summary, "", "| key | default | meaning |", "|---|---|---|"]
        for key in dataclasses.fields(values):
            value = records.toml_value(getattr(values, key.name))
            lines.append(f"| `{key.name}` | `{value}` | {_escaped(settings.comment(key))} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The help of every command."""
    lines = ["# Commands", "", "Generated from the code by `scripts/reference`."]
    for name, command in [("", cli.pergola), *sorted(cli.pergola.commands.items())]:
        full = f"pergola {name}".strip()
        context = click.Context(command, info_name=full, max_content_width=100, terminal_width=100)
        lines += ["", f"## {full}", "", "```", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or with --check compare them; returns the exit status."""
    old: dict[str, Any] = {name: _read(FOLDER / name) for name in pages()}
    stale = [name for name, content in pages().items() if old[name] != content]
    if "--check" in arguments:
        for name in stale:
            sys.stderr.write(f"{FOLDER / name} is out of date. Run scripts/reference.\n")
        return 1 if stale else 0
    for name in stale:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(pages()[name], encoding="utf-8")
        sys.stdout.write(f"wrote {FOLDER / name}\n")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
