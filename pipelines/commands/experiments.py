"""The commands for choosing a network: architectures, ladder, tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pergola.components import records
from pergola.components.errors import InputError
from pergola.pipelines.commands.command import PATH, Options, show, with_options

LADDER = "mlp,cnn1,cnn2,cnn_pool,cnn_dropout,cnn_batchnorm,resnet_fast"


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (architectures, ladder, tune):
        group.add_command(command)


@with_options
@click.argument("names", nargs=-1)
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True,
              help="Of the last layer.")  # fmt: skip
def architectures(options: Options, names: tuple[str, ...], classes: int) -> list[dict[str, Any]]:
    """List the networks that can be trained: input, parameters, FLOPs.

    \b
    pergola architectures
    pergola architectures cnn_pool resnet_fast --json

    Parameters and FLOPs are of the input for which a network was made; each takes any other. FLOPs are
    of one forward pass for one image: a multiplication and an addition for each weight of convolutions
    and dense layers that is used; normalisation, activations and pooling are left out. Choose one with
    --set model.architecture=NAME.
    """
    from pergola.components.training.models import catalogue

    wanted = _known(names, catalogue.NAMES) or catalogue.NAMES
    entries = catalogue.catalogue(wanted, num_classes=classes)
    if not options.json:
        click.echo(_catalogue_table(entries))
    return [records.to_dict(entry) for entry in entries]


@with_options
@click.argument("dataset", type=PATH)
@click.option("--architectures", "names", default=LADDER, show_default=True, help="Names, by commas.")
@click.option("--epochs", type=click.IntRange(1), help="Passes of each; default: by the images.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True),
              help="Training time of each at most.")  # fmt: skip
@click.option("--published", is_flag=True,
              help="Train as the sources do: Adam, batch 32, float32, 20 epochs.")  # fmt: skip
def ladder(
    options: Options, dataset: Path, names: str, epochs: int | None, minutes: float | None, published: bool
) -> dict[str, Any]:
    """Train several networks on DATASET under one budget and compare them.

    \b
    pergola ladder photos/ --epochs 5
    pergola ladder photos/ --architectures mlp,cnn_pool,resnet_fast --minutes 2

    Prints parameters, training and test accuracy, the gap between them (overfitting) and seconds of
    training, and draws an image. Nothing is registered. A ladder that was stopped goes on where it was.
    """
    from dataclasses import replace

    from pergola.components.training.models import catalogue
    from pergola.pipelines.local import experiments

    wanted = _known(tuple(filter(None, (name.strip() for name in names.split(",")))), catalogue.NAMES)
    if not wanted:
        raise InputError(f"--architectures names none. Known: {', '.join(catalogue.NAMES)}.")
    settings = options.settings()
    train = replace(settings.train, epochs=epochs or settings.train.epochs,
                    max_minutes=minutes or settings.train.max_minutes)  # fmt: skip
    result = experiments.ladder(
        dataset, replace(settings, train=train), options.open_workspace(), wanted,
        published=published, show=show(),
    )  # fmt: skip
    if not options.json:
        click.echo(result.words())
    return result.to_json()


@with_options
@click.argument("dataset", type=PATH)
@click.option("--method", type=click.Choice(["random", "bayesian", "hyperband"]), default="bayesian",
              show_default=True, help="How the next settings are chosen.")  # fmt: skip
@click.option("--trials", type=int, default=20, show_default=True, help="Trials at most.")
@click.option("--minutes", type=float, default=0.0, help="Minutes of training at most, in all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the search.")
@click.option("--space", type=PATH, help="What may be changed, TOML; default: our own.")
def tune(options: Options, dataset: Path, space: Path | None, **budget: Any) -> dict[str, Any]:
    """Search for the best settings for DATASET: architecture, augmentation, optimiser.

    \b
    pergola tune photos/ --minutes 30
    pergola tune photos/ --trials 40 --method hyperband --space mine.toml
    pergola run photos/ --config pergola-work/experiments/tune/…/best.toml

    Trials are judged by the validation part; the test part is not read. Each is a run in MLflow. A search
    that was stopped goes on where it was; given more trials or minutes, it goes on from the last.
    """
    from pergola.components.training.search.tune import TuneSettings
    from pergola.pipelines.local import experiments

    how = records.from_dict(TuneSettings, budget, "pergola tune")
    result = experiments.tune(
        dataset, options.settings(), options.open_workspace(), how, space=space, show=show()
    )
    if not options.json:
        click.echo(result.words())
    return result.to_json()


def _known(names: tuple[str, ...], all_names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, each once. Raises InputError for one that is not there."""
    for name in names:
        if name not in all_names:
            raise InputError(f"There is no architecture '{name}'.{records.nearest(name, all_names)}")
    return tuple(dict.fromkeys(names))


def _catalogue_table(entries: Any) -> str:
    lines = [f"{'architecture':<19}{'input':>12}{'parameters':>13}{'MFLOPs':>10}  "]
    for entry in entries:
        size = f"{entry.height}x{entry.width}x{entry.channels}"
        lines.append(
            f"{entry.name:<19}{size:>12}{entry.num_parameters:>13,}{entry.flops / 1e6:>10,.1f}  {entry.about}"
        )
    return "\n".join(lines)
