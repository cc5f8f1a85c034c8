"""The search itself: keras-tuner proposes settings, and each trial is one of our trainings."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import TRAIN, Shards
from pergola.components.errors import InputError, PergolaError, StepError
from pergola.components.training import hyperparameters
from pergola.components.training.augmentation.augment import augment
from pergola.components.training.fit import MODEL, fit
from pergola.components.training.models import architectures
from pergola.components.training.search.space import Parameter, TunableSettings
from pergola.components.training.search.trial import OnTrial, Trial, TuneSettings, score

_OBJECTIVE = "score"
_MAX_FAILURES = 5  # consecutive failures that end a search


class Search:
    """A search that can be resumed from its folder. `trials` are the finished ones."""

    def __init__(
        self, shards: Path, out: Path, base: TunableSettings, space: tuple[Parameter, ...],
        settings: TuneSettings, on_trial: OnTrial,
    ) -> None:  # fmt: skip
        self._shards, self._out, self._base, self._space = shards, out, base, space
        self._settings, self._on_trial = settings, on_trial
        files = sorted(out.glob(f"trials/*/{Trial.FILE}"))
        self.trials = [Trial.load(file.parent) for file in files]

    def run(self, bar: Any) -> None:
        """Run trials until the budget is spent or keras-tuner has no more proposals."""
        import keras_tuner

        search = self

        class Tuner(keras_tuner.Tuner):
            def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
                values = trial.hyperparameters.values
                done = search._finished(trial.trial_id) or search._train(trial.trial_id, values)
                if done.val_accuracy is None:
                    raise keras_tuner.errors.FailedTrialError(done.problem)
                return {_OBJECTIVE: score(done)}

            def on_trial_end(self, trial: Any) -> None:
                super().on_trial_end(trial)
                bar.update()
                bar.set_postfix_str(search._summary())
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
                raise StepError(f"Too many consecutive trials failed. The last error: {error}") from None

    def _finished(self, id: str) -> Trial | None:
        """A trial that finished just before the search was killed."""
        return next((trial for trial in self.trials if trial.id == id), None)

    def _train(self, id: str, proposal: Mapping[str, Any]) -> Trial:
        import keras_tuner

        by_name = {parameter.name: parameter for parameter in self._space}
        values = {name: by_name[name].decoded(value) for name, value in proposal.items() if name in by_name}
        folder = self._out / "trials" / id
        figures: dict[str, float] = {"seconds": 0.0}
        try:
            settings = self._base.changed(values)
            train = replace(settings.train, max_minutes=self._minutes_left())
            if "tuner/epochs" in proposal:
                train = replace(train, epochs=int(proposal["tuner/epochs"]))
            augment(self._shards, folder / "augmentation", settings.augment, seed=train.seed)
            training = fit(self._shards, folder / "augmentation", folder, settings.model, train,
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

        objective = keras_tuner.Objective(_OBJECTIVE, "max")
        options = {
            "objective": objective,
            "seed": self._settings.seed + 1,  # keras-tuner treats 0 as no seed
            "hyperparameters": _hyperparameters(self._space, self._base),
            "max_consecutive_failed_trials": _MAX_FAILURES,
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
        """Of a full training with the base settings."""
        shards, base = Shards.load(self._shards), self._base
        plan = architectures.choose(base.model, shards)
        return hyperparameters.decide(
            base.train,
            side=min(plan.height, plan.width),
            num_train=max(1, shards.splits[TRAIN].num_images),
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

    def _summary(self) -> str:
        best = max(
            (trial.val_accuracy for trial in self.trials if trial.val_accuracy is not None), default=0.0
        )
        return f"best val_accuracy={best:.4f}"


class _BudgetSpent(Exception):
    """All trials or all minutes are used up."""


def _hyperparameters(space: tuple[Parameter, ...], base: TunableSettings) -> Any:
    """The space in keras-tuner's form. The search starts with the base settings if they are in the space."""
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
