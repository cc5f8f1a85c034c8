"""The command for what is expected of data: expectations.

`register` adds it to the command line.
"""

from __future__ import annotations

from pathlib import Path

import click

from pergola.pipelines.commands.command import PATH, Answer, Options, show, with_options

ACTIONS = ("infer", "diff", "check")


def register(group: click.Group) -> None:
    """Add the command to `group`."""
    group.add_command(expectations)


@with_options
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("dataset", type=PATH)
@click.option("--file", type=PATH, default=Path("expectations.toml"), show_default=True,
              help="The expectations.")  # fmt: skip
@click.option("--fail-on", type=click.Choice(["critical", "warning", "info"]), default="critical",
              show_default=True, help="check: the least severity that counts as not met.")  # fmt: skip
def expectations(options: Options, action: str, dataset: Path, file: Path, fail_on: str) -> Answer:
    """What later images are to be like: inferred from DATASET, reviewed by you, held against others.

    \b
    pergola expectations infer FIRST_PHOTOS        writes expectations.toml: review and commit it
    pergola expectations diff LATER_PHOTOS         what is other than it says
    pergola expectations check LATER_PHOTOS        runs it by Great Expectations, with a page of images
    pergola run DATASET --set validate.expectations=expectations.toml

    Exit status of check: 0 met, 3 not met, 2 when the file or the images cannot be read.
    """
    from pergola.pipelines.commands import expectations as front

    found = front.act(
        action, dataset, file, options.settings(), options.open_workspace(), show=show(), fail_on=fail_on
    )
    if not options.json:
        click.echo(found.words)
    return Answer(dict(found.json), found.status)
