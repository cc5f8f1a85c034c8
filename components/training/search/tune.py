"""The search for good settings: keras-tuner draws them, training tries them, the validation part judges.

The test part is never read. A search that was stopped or killed goes on where it was, in the middle of a
trial too.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pergola.components import digest, records
from pergola.components.artifacts.data import VALIDATION, Shards
from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError, PergolaError, StepError
from pergola.components.progress import Progress, silent
from pergola.components.training import hyperparameters
from pergola.components.training.augmentation.augment import augment
from pergola.components.training.fit import MODEL, fit
from pergola.components.training.models import architectures
from pergola.components.training.search.space import SECTIONS, Parameter, Tuned

BEST = "best.toml"
SCORE = "score"
_TIE = 1e-4  # of the validation loss, which decides between trials of equal accuracy
_FAILURES = 5  # one after another that end a search


@dataclass(frozen=True)
class TuneSettings:
    """How settings are searched, and for how long."""

    method: str = records.setting(
        "bayesian", "how the next settings are chosen", choices=("random", "bayesian", "hyperband")
    )
    trials: int = records.setting(20, "trials at most", low=1, high=10_000)
    minutes: float = records.setting(0.0, "minutes of training at most, in all; 0: no limit", low=0.0)
    seed: int = records.setting(0, "of the search: equal seeds, equal trials", low=0)


@dataclass(frozen=True)
class Trial(Record):
    """One try."""

    FILE: ClassVar[str] = "trial.json"

    id: str
    values: Mapping[str, Any]  # "section.key" -> what was tried
    val_accuracy: float | None  # of the best epoch; None: it failed
    val_loss: float | None
    epochs: int
    num_parameters: int
    seconds: float  # of training
    problem: str = ""  # why it failed
    history: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Tuning(Record):
    """The outcome of a search; best.toml beside it holds the best settings."""

    FILE: ClassVar[str] = "tuning.json"

    method: str
    best: Trial
    trials: tuple[Trial, ...]


OnTrial = Callable[[Trial], None]


def tune(
    shards_folder: Path,
    out: Path,
    base: Tuned,
    space: tuple[Parameter, ...],
    settings: TuneSettings,
    *,
    progress: Progress = silent,
    on_trial: OnTrial = lambda trial: None,
) -> Tuning:
    """Try settings of `space` and write tuning.json and best.toml into `out`; goes on from what is there.

    base: the settings of all that the space does not name.  on_trial: called with each trial that ends now.
    Raises InputError when there is no validation part, StepError when trials fail one after another.
    """
    shards = Shards.load(shards_folder)
    part = shards.parts.get(VALIDATION)
    if part is None or not part.num_images:
        raise InputError("There are no validation images to judge by. Raise split.validation.")
    mark = digest.of_data(
        [shards.fingerprint, records.to_dict(base), repr(space), settings.method, settings.seed]
    )
    search = _Search(shards_folder, out / mark[:16], base, space, settings, on_trial)
    with progress(total=settings.trials, desc="tune", unit="trial", initial=len(search.trials)) as bar:
        search.run(bar)
    done = [trial for trial in search.trials if trial.val_accuracy is not None]
    if not done:
        raise StepError(
            f"No trial came to an end: {search.trials[-1].problem if search.trials else 'no time'}"
        )
    best = max(done, key=_score)
    tuning = Tuning(settings.method, best, tuple(search.trials))
    records.write_atomic(out / BEST, toml(base.changed(best.values), best))
    tuning.save(out)
    return tuning


def toml(settings: Tuned, best: Trial) -> str:
    """The settings as a file for --config."""
    lines = [f"# Found by pergola tune: validation accuracy {best.val_accuracy:.4f}, trial {best.id}."]
    for section in SECTIONS:
        part = records.to_dict(getattr(settings, section))
        lines += [
            f"[{section}]",
            *(f"{key} = {records.toml_value(value)}" for key, value in part.items()),
            "",
        ]
    return "\n".join(lines)


class _Search:
    """keras-tuner's search, whose trials are trainings of ours."""

    def __init__(
        self, shards: Path, out: Path, base: Tuned, space: tuple[Parameter, ...], settings: TuneSettings,
        on_trial: OnTrial,
    ) -> None:  # fmt: skip
        self._shards, self._out, self._base, self._space = shards, out, base, space
        self._settings, self._on_trial = settings, on_trial
        files = sorted(out.glob(f"trials/*/{Trial.FILE}"))
        self.trials = [Trial.load(file.parent) for file in files]

    def run(self, bar: Any) -> None:
        """Try until the budget is spent or keras-tuner has no more to try."""
        search = self

        import keras_tuner

        class Tuner(keras_tuner.Tuner):
            def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
                done = search._known(trial.trial_id) or search._try(
                    trial.trial_id, trial.hyperparameters.values
                )
                if done.val_accuracy is None:
                    raise keras_tuner.errors.FailedTrialError(done.problem)
                return {SCORE: _score(done)}

            def on_trial_end(self, trial: Any) -> None:
                super().on_trial_end(trial)
                bar.update()
                bar.set_postfix_str(search._words())
                if search._is_over():
                    raise _BudgetSpent

        if self._is_over():
            return
        with contextlib.redirect_stdout(io.StringIO()):  # keras-tuner prints
            tuner = Tuner(self._oracle(), directory=str(self._out), project_name="oracle")
            try:
                tuner.search(verbose=0)
            except _BudgetSpent:
                pass
            except keras_tuner.errors.FatalError as error:
                raise error.__cause__ or error from None
            except RuntimeError as error:
                raise StepError(f"Trials fail one after another. The last said: {error}") from None

    def _known(self, id: str) -> Trial | None:
        """A trial that ended just before the search was killed."""
        return next((trial for trial in self.trials if trial.id == id), None)

    def _try(self, id: str, drawn: Mapping[str, Any]) -> Trial:
        import keras_tuner

        by_name = {parameter.name: parameter for parameter in self._space}
        values = {name: by_name[name].decoded(value) for name, value in drawn.items() if name in by_name}
        folder = self._out / "trials" / id
        figures: dict[str, float] = {"seconds": 0.0}
        try:
            tuned = self._base.changed(values)
            train = replace(tuned.train, max_minutes=self._minutes_left())
            if "tuner/epochs" in drawn:
                train = replace(train, epochs=int(drawn["tuner/epochs"]))
            augment(self._shards, folder / "augmentation", tuned.augment, seed=train.seed)
            training = fit(self._shards, folder / "augmentation", folder, tuned.model, train,
                           on_epoch=lambda epoch, found: figures.update(found))  # fmt: skip
        except InputError as error:
            raise keras_tuner.errors.FatalValueError(str(error)) from error
        except PergolaError as error:
            trial = Trial(id, values, None, None, 0, 0, figures["seconds"], str(error))
        else:
            best = training.history[training.best_epoch - 1]
            trial = Trial(
                id, values, best["val_accuracy"], best["val_loss"], training.epochs, training.num_parameters,
                round(figures["seconds"], 2), "", training.history,
            )  # fmt: skip
        trial.save(folder)
        (folder / MODEL).unlink(missing_ok=True)
        shutil.rmtree(folder / "augmentation", ignore_errors=True)
        self.trials.append(trial)
        self._on_trial(trial)
        return trial

    def _oracle(self) -> Any:
        import keras_tuner

        objective = keras_tuner.Objective(SCORE, "max")
        options = {
            "objective": objective,
            "seed": self._settings.seed + 1,  # keras-tuner takes 0 for none
            "hyperparameters": _hyperparameters(self._space, self._base),
            "max_consecutive_failed_trials": _FAILURES,
        }
        if self._settings.method == "hyperband":
            return keras_tuner.oracles.HyperbandOracle(
                max_epochs=self._epochs(), hyperband_iterations=100, **options
            )
        kinds = {
            "random": keras_tuner.oracles.RandomSearchOracle,
            "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
        }
        return kinds[self._settings.method](max_trials=self._settings.trials, **options)

    def _epochs(self) -> int:
        """Of a full training, by the base settings."""
        shards, base = Shards.load(self._shards), self._base
        plan = architectures.choose(base.model, shards)
        return hyperparameters.decide(
            base.train,
            side=min(plan.height, plan.width),
            num_train=max(1, shards.parts["train"].num_images),
            is_pretrained=architectures.is_pretrained(base.model, plan),
        ).epochs

    def _minutes_left(self) -> float:
        most = self._base.train.max_minutes
        if not self._settings.minutes:
            return most
        return min(most, max(0.01, self._settings.minutes - sum(trial.seconds for trial in self.trials) / 60))

    def _is_over(self) -> bool:
        spent = sum(trial.seconds for trial in self.trials) / 60
        out_of_time = bool(self._settings.minutes) and spent >= self._settings.minutes
        return len(self.trials) >= self._settings.trials or out_of_time

    def _words(self) -> str:
        best = max(
            (trial.val_accuracy for trial in self.trials if trial.val_accuracy is not None), default=0.0
        )
        return f"best val_accuracy={best:.4f}"


class _BudgetSpent(Exception):
    """The search has had its trials or its minutes."""


def _score(trial: Trial) -> float:
    assert trial.val_accuracy is not None and trial.val_loss is not None
    return trial.val_accuracy - _TIE * min(trial.val_loss, 100.0)


def _hyperparameters(space: tuple[Parameter, ...], base: Tuned) -> Any:
    """The space as keras-tuner has it; a search begins with the base settings where it can."""
    import keras_tuner

    found = keras_tuner.HyperParameters()
    encoded = {parameter.name: parameter.encoded for parameter in space}
    for parameter in space:
        condition: dict[str, Any] = {}
        if parameter.when:
            other, wanted = parameter.when
            condition = {"parent_name": other, "parent_values": [encoded[other](value) for value in wanted]}
        default = parameter.encoded(base.value(parameter.name))
        if parameter.values:
            values = [parameter.encoded(value) for value in parameter.values]
            found.Choice(parameter.name, values, default=default if default in values else None, **condition)
            continue
        inside = parameter.low <= default <= parameter.high
        add, number = (found.Int, int) if parameter.kind is int else (found.Float, float)
        add(
            parameter.name, number(parameter.low), number(parameter.high), step=parameter.step,
            sampling="log" if parameter.log else "linear", default=default if inside else None, **condition,
        )  # fmt: skip
    return found
