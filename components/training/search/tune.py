"""Hyperparameter search: keras-tuner proposes settings, and the validation split ranks the trials.

The test split is never read. A search that was stopped or killed resumes where it was, even within a trial.
"""

from __future__ import annotations

from pathlib import Path

from pergola.components import digest, records
from pergola.components.artifacts.data import VALIDATION, Shards
from pergola.components.errors import InputError, StepError
from pergola.components.progress import Progress, silent
from pergola.components.training.search.space import SECTIONS, Parameter, TunableSettings
from pergola.components.training.search.trial import OnTrial, score
from pergola.components.training.search.trial import Trial as Trial
from pergola.components.training.search.trial import TuneSettings as TuneSettings
from pergola.components.training.search.trial import Tuning as Tuning
from pergola.components.training.search.tuner import Search

BEST = "best.toml"


def tune(
    shards_folder: Path,
    out: Path,
    base: TunableSettings,
    space: tuple[Parameter, ...],
    settings: TuneSettings,
    *,
    progress: Progress = silent,
    on_trial: OnTrial = lambda trial: None,
) -> Tuning:
    """Search `space` and write tuning.json and best.toml into `out`. Resumes an earlier search there.

    base: values of the settings that are not in the space.  on_trial: called with each trial that finishes.
    Raises InputError without a validation split, StepError when consecutive trials fail.
    """
    shards = Shards.load(shards_folder)
    split = shards.splits.get(VALIDATION)
    if split is None or not split.num_images:
        raise InputError("There are no validation images to rank the trials by. Increase split.validation.")
    key = digest.of_data(
        [shards.fingerprint, records.to_dict(base), repr(space), settings.method, settings.seed]
    )
    search = Search(shards_folder, out / key[:16], base, space, settings, on_trial)
    with progress(total=settings.trials, desc="tune", unit="trial", initial=len(search.trials)) as bar:
        search.run(bar)
    done = [trial for trial in search.trials if trial.val_accuracy is not None]
    if not done:
        raise StepError(
            f"No trial succeeded: {search.trials[-1].problem if search.trials else 'no time for one'}"
        )
    best = max(done, key=score)
    tuning = Tuning(settings.method, best, tuple(search.trials))
    records.write_atomic(out / BEST, toml(base.changed(best.values), best))
    tuning.save(out)
    return tuning


def toml(settings: TunableSettings, best: Trial) -> str:
    """The settings as a configuration file, for --config."""
    lines = [f"# Found by pergola tune: validation accuracy {best.val_accuracy:.4f}, trial {best.id}."]
    for section in SECTIONS:
        part = records.to_dict(getattr(settings, section))
        lines += [
            f"[{section}]",
            *(f"{key} = {records.toml_value(value)}" for key, value in part.items()),
            "",
        ]
    return "\n".join(lines)
