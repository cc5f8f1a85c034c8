"""The commands that make a model from a data set: run, validate, expectations, versions, config.

`register` adds them to the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pergola.components.errors import InputError
from pergola.pipelines.commands.command import (
    PATH,
    CommandResult,
    CommonOptions,
    command_line,
    display,
    echo,
    layout_option,
    print_status,
    with_options,
)


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (run, validate, expectations, versions, config):
        group.add_command(command)


@with_options
@click.argument("dataset", type=PATH, required=False)
@layout_option
@click.option("--force", metavar="STEP", help="Redo this step and all later ones, even if nothing changed.")
@click.option("--no-release", is_flag=True,
              help="Register a version, but leave the champion as it is; see `pergola promote`.")  # fmt: skip
@click.option("--reproduce", metavar="VERSION",
              help="Repeat the run of a version and compare. Nothing is released.")  # fmt: skip
def run(
    options: CommonOptions,
    dataset: Path | None,
    layout: str | None,
    force: str | None,
    no_release: bool,
    reproduce: str | None,
) -> dict[str, Any] | CommandResult:
    """Train, test and release a classifier from DATASET.

    \b
    pergola run leaves/
    pergola run leaves.zip --set train.epochs=20 --workspace work
    pergola run leaves/ --force train --json
    pergola run leaves/ --no-release
    pergola run --reproduce 3

    Steps whose inputs, settings and code did not change are reused; an interrupted run continues where it
    stopped. --reproduce takes the settings and, unless given, DATASET from a version, checks that the images
    are the same, and exits with status 1 if the decision differs.
    """
    from pergola.pipelines.local import run as local
    from pergola.pipelines.local.reproduce import OriginalVersion
    from pergola.pipelines.monitoring.lineage import provenance_folder

    workspace = options.open_workspace()
    settings, original = options.settings(layout), None
    if reproduce is not None:
        if options.config or options.overrides or layout:
            raise InputError(
                "--reproduce uses the settings of the version and cannot be combined with --config, --set or "
                "--layout. Leave them out."
            )
        original = OriginalVersion.of(provenance_folder(workspace, reproduce))
        settings, dataset = original.settings(), dataset or Path(original.origin.source)
    if dataset is None:
        raise InputError(
            "DATASET is missing. Give a folder of images, a list or an archive: pergola run leaves/"
        )
    result = local.run(
        dataset,
        settings,
        workspace,
        force=force,
        show=display(),
        command=command_line(),
        reproduce=original,
        release=not no_release,
    )
    if not options.json:
        echo(result.summary())
    differs = result.reproduction is not None and not result.reproduction.same_decision
    return CommandResult(result.to_json(), 1) if differs else result.to_json()


@with_options
@click.argument("dataset", type=PATH)
@layout_option
@click.option("--relabel", type=PATH, metavar="FILE",
              help="Write a list of suspicious labels to FILE, to be corrected.")  # fmt: skip
def validate(
    options: CommonOptions, dataset: Path, layout: str | None, relabel: Path | None
) -> dict[str, Any]:
    """Check DATASET for bad images, labels and leaks.

    Prints the findings and the path of a page that shows the images. The exit status is 0 even with critical
    findings; in the JSON, `ok` is false then.

    \b
    pergola validate leaves/
    pergola validate leaves/ --relabel relabel.csv     list labels, most suspicious first
    …  write the right class, or (remove), into the last column
    pergola run leaves/ --set scan.relabel=relabel.csv
    """
    from pergola.pipelines.local import run as local

    settings, workspace = options.settings(layout), options.open_workspace()
    result = local.validate(dataset, settings, workspace, show=display(), relabel=relabel)
    if not options.json:
        echo(result.summary())
    return result.to_json()


@with_options
@click.argument("action", type=click.Choice(["infer", "diff", "check", "export", "import"]))
@click.argument("place", type=PATH, metavar="DATASET|SUITE")
@click.option("--file", type=PATH, help="File with the expectations.  [default: expectations.toml]")
@click.option("--fail-on", type=click.Choice(["critical", "warning", "info"]), default="critical",
              show_default=True, help="check: lowest severity that fails the check.")  # fmt: skip
def expectations(
    options: CommonOptions, action: str, place: Path, file: Path | None, fail_on: str
) -> CommandResult:
    """Infer, check, export or import expectations.

    Of a DATASET, or as a SUITE of Great Expectations.

    \b
    pergola expectations infer leaves/           write expectations.toml: review and commit it
    pergola expectations diff new-leaves/        show how another data set differs
    pergola expectations check new-leaves/       check it with Great Expectations; writes a page of images
    pergola expectations export suite.json       write them, else the built-in ones, as a suite
    pergola expectations import suite.json       write expectations.toml from a suite
    pergola run DATASET --set validate.expectations=expectations.toml      or suite.json

    A run with expectations also keeps a project of Great Expectations in the workspace, gx/.

    Exit status of check: 0 met, 3 not met, 2 if the file or the images cannot be read.
    """
    from pergola.pipelines.commands import expectations as actions

    result = actions.act(
        action, place, file, options.settings(), options.open_workspace(), show=display(), fail_on=fail_on
    )
    if not options.json:
        echo(result.text)
    return CommandResult(dict(result.json), result.status)


@with_options
@click.option("--model", help="Only this model.")
@click.option("--repair", is_flag=True, help="Set damaged versions aside and publish them again.")
def versions(options: CommonOptions, model: str | None, repair: bool) -> dict[str, Any]:
    """List model versions, and check their files.

    \b
    pergola versions
    pergola versions --model leaves --json
    pergola versions --repair
    """
    from pergola.pipelines.release import versions as listing

    workspace = options.open_workspace()
    if repair:
        listing.repair(workspace, model, print_status)
    found = listing.versions(workspace, model)
    if not options.json:
        echo(listing.table(found))
    return found


@with_options
def config(options: CommonOptions) -> dict[str, Any]:
    """Print all settings as TOML with comments.

    \b
    pergola config > pergola.toml
    pergola run DATASET --config pergola.toml
    """
    from pergola.components import records, settings

    found = options.settings()
    if not options.json:
        click.echo(settings.to_toml(found), nl=False)
    return records.to_dict(found)
