"""The commands for what comes after a release: drift, feedback, retrain, lineage.

`register` adds them to the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pergola.components.errors import InputError
from pergola.pipelines.commands.command import PATH, Answer, Options, show, typed, with_options


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (drift, feedback, retrain, lineage):
        group.add_command(command)


@with_options
@click.argument("target", required=False, metavar="[MODEL/VERSION]")
@click.option("--log", help="Prefix of the request log's files; default: what `pergola serve` kept.")
@click.option("--last", is_flag=True, help="Show what the last look found; take none.")
def drift(options: Options, target: str | None, log: str | None, last: bool) -> Answer:
    """Has what a version is asked about moved since its test part? Exit status 3 if it has.

    \b
    pergola serve --log-requests 1       keep requests, then, some days later:
    pergola drift                        the champion
    pergola drift leaves/3 --json
    pergola drift --set drift.min_requests=500

    Each look judges the requests since the last one, and the chance of a false alarm is shared out over
    looks ([drift]). Writes a page with distributions and the most unusual requests. Exit status 0: no
    drift; 3: drift; 2: no log, no reference, or too few requests.
    """
    from pergola.pipelines.monitoring import drift as front

    workspace = options.open_workspace()
    if last:
        found = front.last_look(workspace, target)
    else:
        found = front.drift(workspace, target, options.settings().drift, log=log, show=show())
    if not options.json:
        click.echo(found.words())
    return Answer(found.to_json(), found.status)


@with_options
@click.argument("labels", required=False, type=PATH, metavar="[LABELS.csv]")
@click.option("--model", help="Which model; needed when the workspace has several.")
@click.option("--log", help="Prefix of the request log's files; default: what `pergola serve` kept.")
@click.option("--ask", type=PATH, metavar="FOLDER", help="Write a draw of logged images to label here.")
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="Images for --ask.")
@click.option("--export", type=PATH, metavar="FOLDER", help="Copy what was labelled to FOLDER/<label>/.")
@click.option("--replace", is_flag=True, help="Take labels that differ from those given before.")
@click.option("--new-class", "new_classes", multiple=True, help="A label that the model does not know.")
def feedback(
    options: Options,
    labels: Path | None,
    model: str | None,
    log: str | None,
    ask: Path | None,
    count: int,
    export: Path | None,
    replace: bool,
    new_classes: tuple[str, ...],
) -> dict[str, Any]:
    """Take true labels for logged requests, and say how right each version is in use.

    \b
    pergola feedback --ask to-label      images and labels.csv, to be filled in by a person
    pergola feedback to-label/labels.csv take them; or a list of your own: image,label or id,label
    pergola feedback                     accuracy of each version so far, with 95% intervals
    pergola feedback --export photos/    into a folder of classes; or --set scan.also=… of `pergola run`

    An image is known by the file that was sent, or by its id, the SHA-256 of what the server got. It counts
    once a version. A list with two labels for one image is refused as a whole.
    """
    from pergola.pipelines.monitoring import feedback as front

    if sum(given is not None for given in (labels, ask, export)) > 1:
        raise InputError("LABELS.csv, --ask and --export are three different things: give one at a time.")
    place = front.Place.of(options.open_workspace(), model, log)
    if ask is not None:
        asked = front.ask(place, ask, count)
        if not options.json:
            click.echo(f"{asked} {'image' if asked == 1 else 'images'}. "
                       f"Fill in 'label' in {ask / front.LIST}, then")  # fmt: skip
            same = {"--workspace": options.workspace, "--model": model, "--log": log}
            given = " ".join(f"{name} {value}" for name, value in same.items() if value)
            click.echo(f"  pergola feedback {ask / front.LIST} {given}")
        return {"asked": asked, "list": str(ask / front.LIST)}
    if export is not None:
        copied = front.export(place, export)
        if not options.json:
            click.echo(f"{copied} new images in {export}.")
        return {"copied": copied, "folder": str(export)}
    found = (
        front.take(place, labels, replace=replace, new_classes=new_classes)
        if labels
        else front.feedback(place)
    )
    if not options.json:
        click.echo(found.words())
    return found.to_json()


@with_options
@click.argument("dataset", type=PATH)
@click.option("--no-feedback", is_flag=True, help="Leave out images that were labelled by `feedback`.")
def retrain(options: Options, dataset: Path, no_feedback: bool) -> dict[str, Any]:
    """`pergola run DATASET`, if there is a reason: new images, drift, or age. For a timer.

    \b
    pergola retrain leaves/
    pergola retrain leaves/ --set retrain.max_age_days=30 --set retrain.min_images=50

    Says why it trains, or why not, and keeps the reason in the run's record. Exit status 0 either way.
    """
    from pergola.pipelines.monitoring import retrain as front

    found = front.retrain(
        dataset,
        options.settings(),
        options.open_workspace(),
        use_feedback=not no_feedback,
        show=show(),
        command=typed(),
    )
    if not options.json:
        click.echo(found.words())
    return found.to_json()


@with_options
@click.argument("what", metavar="VERSION|IMAGE")
def lineage(options: Options, what: str) -> dict[str, Any]:
    """What a version was made of and what became of it; or which versions saw an image, and where.

    \b
    pergola lineage 3                    or leaves/3, where there are several models
    pergola lineage leaves/oak/17.jpg    the part it was in, the label it had, how often it was asked about
    pergola lineage 9f86d08188…          the same by the SHA-256 of its bytes

    Answers come from files of the workspace: images, settings, code, run, network, decision, release,
    requests, looks at drift, feedback. `pergola run --like 3` makes it again.
    """
    from pergola.pipelines.monitoring import lineage as front
    from pergola.pipelines.monitoring import lineage_summary

    workspace = options.open_workspace()
    if front.is_image(what):
        found = front.of_image(workspace, what)
        words = lineage_summary.of_image(found)
    else:
        found = front.of_version(workspace, what)
        words = lineage_summary.of_version(found)
    if not options.json:
        click.echo(words)
    return found
