"""The commands for choosing architecture and settings: architectures, compare-architectures, tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pergola.components import records
from pergola.components.errors import InputError
from pergola.pipelines.commands.command import PATH, CommonOptions, display, echo, with_options

COMPARED = "mlp,cnn1,cnn2,cnn_pool,cnn_dropout,cnn_batchnorm,resnet_fast"


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (architectures, compare_architectures, tune):
        group.add_command(command)


@with_options
@click.argument("names", nargs=-1)
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True,
              help="Number of classes.")  # fmt: skip
def architectures(options: CommonOptions, names: tuple[str, ...], classes: int) -> list[dict[str, Any]]:
    """List the available architectures and their cost.

    \b
    pergola architectures
    pergola architectures cnn_pool resnet_fast --json

    Parameters and FLOPs are for the input size that an architecture was designed for; it accepts any other.
    FLOPs count the multiplications and additions of convolutions and dense layers in one forward pass for
    one image, without normalisation, activations and pooling. Choose one with
    --set model.architecture=NAME.
    """
    from pergola.components.training.models import catalogue

    entries = catalogue.catalogue(_known(names, catalogue.NAMES) or catalogue.NAMES, num_classes=classes)
    if not options.json:
        echo(_catalogue_table(entries))
    return [records.to_dict(entry) for entry in entries]


@with_options
@click.argument("dataset", type=PATH)
@click.option("--architectures", "names", default=COMPARED, show_default=True, help="Comma-separated names.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of each. Default: by the number of images.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True),
              help="Upper limit of the training time of each.")  # fmt: skip
@click.option("--published", is_flag=True,
              help="Train as in the publications: Adam, batch size 32, float32, 20 epochs.")  # fmt: skip
def compare_architectures(
    options: CommonOptions,
    dataset: Path,
    names: str,
    epochs: int | None,
    minutes: float | None,
    published: bool,
) -> dict[str, Any]:
    """Train several architectures and compare them.

    \b
    pergola compare-architectures leaves/ --epochs 5
    pergola compare-architectures leaves/ --architectures mlp,cnn_pool,resnet_fast --minutes 2

    Prints parameters, training and test accuracy, the gap between them (overfitting) and training time, and
    draws a chart. Nothing is registered. An interrupted comparison continues where it stopped.
    """
    from dataclasses import replace

    from pergola.components.training.models import catalogue
    from pergola.pipelines.local import experiments

    chosen = _known(tuple(filter(None, (name.strip() for name in names.split(",")))), catalogue.NAMES)
    if not chosen:
        raise InputError(f"--architectures is empty. Give at least one of {', '.join(catalogue.NAMES)}.")
    settings = options.settings()
    train = replace(settings.train, epochs=epochs or settings.train.epochs,
                    max_minutes=minutes or settings.train.max_minutes)  # fmt: skip
    result = experiments.compare_architectures(
        dataset, replace(settings, train=train), options.open_workspace(), chosen,
        published=published, show=display(),
    )  # fmt: skip
    if not options.json:
        echo(result.summary())
    return result.to_json()


@with_options
@click.argument("dataset", type=PATH)
@click.option("--method", type=click.Choice(["random", "bayesian", "hyperband"]), default="bayesian",
              show_default=True, help="Search method.")  # fmt: skip
@click.option("--trials", type=int, default=20, show_default=True, help="Maximum number of trials.")
@click.option(
    "--minutes", type=float, default=0.0, help="Limit of the total training time, minutes. 0: none."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the search.")
@click.option("--space", type=PATH, help="Search space (TOML). Default: the built-in one.")
def tune(options: CommonOptions, dataset: Path, space: Path | None, **budget: Any) -> dict[str, Any]:
    """Search for the best training settings for DATASET.

    \b
    pergola tune leaves/ --minutes 30
    pergola tune leaves/ --trials 40 --method hyperband --space space.toml
    pergola run leaves/ --config pergola-work/experiments/tune/…/best.toml

    Trials are compared on the validation split; the test split is not used. Each trial is a run in MLflow.
    An interrupted search continues where it stopped, and so does one that is given more trials or minutes.
    """
    from pergola.components.training.search.tune import TuneSettings
    from pergola.pipelines.local import experiments

    how = records.from_dict(TuneSettings, budget, "pergola tune")
    result = experiments.tune(
        dataset, options.settings(), options.open_workspace(), how, space=space, show=display()
    )
    if not options.json:
        echo(result.summary())
    return result.to_json()


def _known(names: tuple[str, ...], all_names: tuple[str, ...]) -> tuple[str, ...]:
    """The names without duplicates. Raises InputError for an unknown one."""
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
