"""The commands for monitoring released models: drift, feedback, retrain, lineage, forget.

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
    with_options,
)


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (drift, feedback, retrain, lineage, forget):
        group.add_command(command)


@with_options
@click.argument("target", required=False, metavar="[MODEL/VERSION]")
@click.option("--log", help="Prefix of the request log's files. Default: the log of `pergola serve`.")
@click.option("--last", is_flag=True, help="Show the result of the last check instead of running one.")
def drift(options: CommonOptions, target: str | None, log: str | None, last: bool) -> CommandResult:
    """Check whether requests have drifted.

    \b
    pergola serve --log-requests 1       log requests; some days later:
    pergola drift                        check the champion
    pergola drift leaves/3 --json
    pergola drift --set drift.min_requests=500

    Compares the requests since the last check with the test split of the version. The false alarm rate in
    [drift] is for all checks of a period together. Writes a page with distributions and the most unusual
    requests. Exit status: 0 no drift, 3 drift, 2 no log, no reference, or too few requests.
    """
    from pergola.pipelines.monitoring import drift as front

    workspace = options.open_workspace()
    if last:
        found = front.last_check(workspace, target)
    else:
        found = front.drift(workspace, target, options.settings().drift, log=log, show=display())
    if not options.json:
        echo(found.summary())
    return CommandResult(found.to_json(), found.status)


@with_options
@click.argument("labels", required=False, type=PATH, metavar="[LABELS.csv]")
@click.option("--model", help="Name of the model. Required if the workspace has several.")
@click.option("--log", help="Prefix of the request log's files. Default: the log of `pergola serve`.")
@click.option("--sample", type=PATH, metavar="FOLDER",
              help="Write a random sample of logged images to FOLDER, to be labelled.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), default=100, show_default=True,
              help="Number of images for --sample.")  # fmt: skip
@click.option("--export", type=PATH, metavar="FOLDER", help="Copy labelled images to FOLDER/<label>/.")
@click.option("--replace", is_flag=True, help="Overwrite labels that differ from earlier ones.")
@click.option(
    "--new-class", "new_classes", multiple=True, help="Accept this label, unknown to the model. Repeatable."
)
def feedback(
    options: CommonOptions,
    labels: Path | None,
    model: str | None,
    log: str | None,
    sample: Path | None,
    count: int,
    export: Path | None,
    replace: bool,
    new_classes: tuple[str, ...],
) -> dict[str, Any]:
    """Label logged requests and report live accuracy.

    \b
    pergola feedback --sample to-label      write images and labels.csv, to be filled in
    pergola feedback to-label/labels.csv    add the labels; or a list of yours: image,label or id,label
    pergola feedback                        accuracy of each version so far, with 95% intervals
    pergola feedback --export leaves-2/     copy into one folder per class; or `pergola run` with scan.also

    Images are matched by the file that was sent, or by id, the SHA-256 of the bytes that the server received.
    Each counts once per version. A list with two labels for one image is rejected as a whole.
    """
    from pergola.pipelines.monitoring import feedback as front

    if sum(given is not None for given in (labels, sample, export)) > 1:
        raise InputError("LABELS.csv, --sample and --export exclude each other. Give one of them.")
    store = front.FeedbackStore.of(options.open_workspace(), model, log)
    if sample is not None:
        num_images, to_fill_in = front.sample(store, sample, count), sample / front.LIST
        if not options.json:
            echo(f"{num_images} {'image' if num_images == 1 else 'images'}. "
                       f"Fill in the column 'label' of {to_fill_in}, then run")  # fmt: skip
            same = {"--workspace": options.workspace, "--model": model, "--log": log}
            given = " ".join(f"{name} {value}" for name, value in same.items() if value)
            echo(f"  pergola feedback {to_fill_in} {given}")
        return {"asked": num_images, "list": str(to_fill_in)}
    if export is not None:
        copied = front.export(store, export)
        if not options.json:
            echo(f"Copied {copied} new images to {export}.")
        return {"copied": copied, "folder": str(export)}
    found = (
        front.add_labels(store, labels, replace=replace, new_classes=new_classes)
        if labels
        else front.feedback(store)
    )
    if not options.json:
        echo(found.summary())
    return found.to_json()


@with_options
@click.argument("dataset", type=PATH)
@click.option(
    "--no-feedback", is_flag=True, help="Do not train on requests that were labelled by `feedback`."
)
def retrain(options: CommonOptions, dataset: Path, no_feedback: bool) -> dict[str, Any]:
    """Run the pipeline if data, drift or age require it.

    \b
    pergola retrain leaves/
    pergola retrain leaves/ --set retrain.max_age_days=30 --set retrain.min_images=50

    For use with a timer such as cron. Prints why it trains or not, and stores the reason with the run. The
    exit status is 0 in both cases.
    """
    from pergola.pipelines.monitoring import retrain as front

    found = front.retrain(
        dataset,
        options.settings(),
        options.open_workspace(),
        use_feedback=not no_feedback,
        show=display(),
        command=command_line(),
    )
    if not options.json:
        echo(found.summary())
    return found.to_json()


@with_options
@click.argument("what", metavar="VERSION|IMAGE")
def lineage(options: CommonOptions, what: str) -> dict[str, Any]:
    """Show the origin of a version or uses of an image.

    \b
    pergola lineage 3                    or leaves/3, if there are several models
    pergola lineage leaves/oak/17.jpg    its split and label in each version, requests with it, feedback
    pergola lineage 9f86d08188…          the same, by the SHA-256 of its bytes

    For a version: images, settings, code, run, architecture, decision, release, requests, drift checks and
    feedback, read from the workspace. To reproduce it: pergola run --reproduce 3.
    """
    from pergola.pipelines.monitoring import lineage as front
    from pergola.pipelines.monitoring import lineage_summary

    workspace = options.open_workspace()
    if front.is_image(what):
        found = front.of_image(workspace, what)
        summary = lineage_summary.of_image(found)
    else:
        found = front.of_version(workspace, what)
        summary = lineage_summary.of_version(found)
    if not options.json:
        echo(summary)
    return found


@with_options
@click.argument("images", nargs=-1, required=True, metavar="SHA256|IMAGE...")
@click.option("--store", envvar="PERGOLA_STORE", show_envvar=True,
              help="Model store whose versions are searched too: a folder, s3://… or gs://…")  # fmt: skip
@click.option("--log", "logs", multiple=True,
              help="Prefix of a request log outside of the workspace. Repeatable.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="List what would be removed; change nothing.")
def forget(
    options: CommonOptions, images: tuple[str, ...], store: str | None, logs: tuple[str, ...], dry_run: bool
) -> dict[str, Any]:
    """Remove images from the workspace.

    \b
    pergola forget leaves/oak/17.jpg --dry-run     list what would be removed
    pergola forget 9f86d08188… --store s3://models/pergola

    Removes the image and its thumbnails from request logs, feedback, pages, reports, unpacked archives and
    the outputs of steps, which the next run makes again. Lists the versions that were trained, validated or
    tested with it, and models of pergola 0.1.0 that hold it. An image is identified by its bytes, so list
    re-encoded copies too. If it was interrupted, run it again. The data set is yours: delete the file there.
    """
    from pergola.pipelines.forget.forget import forget as remove

    found = remove(options.open_workspace(), images, store=store, logs=logs, dry_run=dry_run)
    if not options.json:
        click.echo(found.summary())
    return found.to_json()
