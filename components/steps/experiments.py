"""What is tried on a data set before a run: a search for settings, and architectures side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.progress import Progress, silent

if TYPE_CHECKING:
    from pergola.components.training.fit import TrainSettings
    from pergola.components.training.models.architectures import ModelSettings
    from pergola.components.training.search.comparison import Row
    from pergola.components.training.search.space import Tuned
    from pergola.components.training.search.tune import Trial, TuneSettings, Tuning


def tune(
    shards: Path,
    out: Path,
    settings: TuneSettings,
    *,
    base: Tuned,
    space: Path | None = None,
    tracking_uri: str | None = None,
    key: str = "tune",
    progress: Progress = silent,
) -> Tuning:
    """Shards -> the best settings of a search, as best.toml for --config. Resumes what it left in `out`.

    space: a TOML file, by default the one that fits the weights (components/training/search/space.toml).
    tracking_uri, key: the registry in which each trial becomes the run "<key>-<trial>"; None: in none.
    """
    from pergola.components.training.search import space as spaces
    from pergola.components.training.search.tune import tune as search

    default = spaces.PRETRAINED if base.model.weights else spaces.SCRATCH
    parameters = spaces.load(space or default)

    def on_trial(trial: Trial) -> None:
        if tracking_uri:
            _note_trial(tracking_uri, f"{key}-{trial.id}", trial)

    return search(shards, out, base, parameters, settings, progress=progress, on_trial=on_trial)


def _note_trial(tracking_uri: str, key: str, trial: Trial) -> None:
    from pergola.components.release.registry.registry import Registry

    registry = Registry(tracking_uri)
    run = registry.runs.open(key)
    figures = {
        name: getattr(trial, name) for name in ("val_accuracy", "val_loss", "num_parameters", "seconds")
    }
    named = {f"trial_{name}": value for name, value in figures.items()}
    tags = {"pergola.tune": key.rpartition("-")[0], "pergola.problem": trial.problem}
    registry.runs.log(run, params=trial.values, metrics=named, tags=tags)
    registry.runs.log_epochs(run, trial.history)
    registry.runs.finish(run, failed=bool(trial.problem))


def ladder(
    shards: Path,
    augmentation: Path,
    out: Path,
    settings: TrainSettings,
    *,
    model: ModelSettings,
    names: Sequence[str],
    progress: Progress = silent,
    on_row: Callable[[Row, bool], None] = lambda row, is_new: None,
) -> tuple[Row, ...]:
    """Shards -> several architectures compared, and an image of it. Continues from what it left in `out`."""
    from pergola.components.training.search.comparison import compare
    from pergola.components.training.search.comparison_chart import draw

    rows = compare(shards, augmentation, out, names, model, settings, progress=progress, on_row=on_row)
    draw(rows, out)
    return rows
