"""What happens around each step and each epoch of training: rate, progress, checks, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import StepError
from components.progress import Bar
from components.training.checkpoint import Checkpoint, State
from components.training.recipe import Recipe, rate

OnEpoch = Callable[[int, Mapping[str, float]], None]


@dataclass
class Loop:
    """Callbacks of one training. `state` grows with it."""

    network: Any
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    recipe: Recipe
    checkpoint: Checkpoint
    state: State
    steps: int  # an epoch
    deadline_s: float
    checkpoint_s: float
    bar: Bar
    on_epoch: OnEpoch | None

    def __post_init__(self) -> None:
        self._resumed: list[NDArray[Any]] | None = None
        self._last_save = self._last_step = time.monotonic()

    def callback(self) -> Any:
        """For `keras.Model.fit`."""
        import keras

        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self._begin_epoch(),
            on_train_batch_begin=lambda batch, logs: self._set_rate(),
            on_train_batch_end=lambda batch, logs: self._end_step(logs),
            on_epoch_end=lambda epoch, logs: self._end_epoch(logs),
        )

    def resume(self, variables: list[NDArray[Any]]) -> None:
        """Put variables back; those of the metrics once Keras has reset them for the epoch."""
        own = [*self.network.variables, *self.network.optimizer.variables]
        for variable, value in zip(own, variables[: len(own)], strict=True):
            variable.assign(value)
        if self.state.step % self.steps == 0:
            return  # the epoch is over, and so is what was measured in it
        nothing = np.zeros((1, self.network.output_shape[-1]), np.float32)
        self.network.compute_metrics(None, nothing, nothing)  # Keras makes their variables at first use
        self._resumed = variables[len(own) :]

    def _variables(self) -> list[Any]:
        network = self.network
        return [*network.variables, *network.optimizer.variables, *network.metrics_variables]

    def _begin_epoch(self) -> None:
        if self._resumed is not None:
            for variable, value in zip(self.network.metrics_variables, self._resumed, strict=True):
                variable.assign(value)
            self._resumed = None
        self._last_step = time.monotonic()

    def _set_rate(self) -> None:
        self.network.optimizer.learning_rate.assign(rate(self.recipe, self.state.step, self.steps))

    def _end_step(self, logs: Mapping[str, Any]) -> None:
        if not math.isfinite(float(logs["loss"])):
            highest = self.recipe.stages[0].learning_rate
            raise StepError(
                f"Training broke down: the loss became {float(logs['loss'])} at step {self.state.step + 1} "
                f"(learning rate {highest:g}). Try --set train.learning_rate={highest / 4:g} or "
                "--set train.precision=float32."
            )
        now = time.monotonic()
        spent = self.state.seconds + now - self._last_step
        self.state, self._last_step = replace(self.state, step=self.state.step + 1, seconds=spent), now
        self.bar.update(self.recipe.batch_size)
        is_epoch_end = self.state.step % self.steps == 0
        if not is_epoch_end and now - self._last_save > self.checkpoint_s:
            self._save()

    def _end_epoch(self, logs: Mapping[str, Any]) -> None:
        metrics = {"loss": float(logs["loss"]), "accuracy": float(logs["accuracy"])}
        with self._averaged():
            metrics |= validate(self.network, *self.validation, self.recipe.batch_size)
            is_best = self._is_best(metrics)
            if is_best:
                epoch = len(self.state.history) + 1
                self.checkpoint.save_best(epoch, self.network.get_weights())
        self.state = self.state.with_epoch(metrics, is_best=is_best)
        self._save()
        if self.on_epoch:
            self.on_epoch(len(self.state.history), metrics)
        self.bar.set_postfix_str(_line(metrics))
        if self.is_done():
            self.network.stop_training = True

    def is_done(self) -> bool:
        """Whether to stop: all epochs done, no progress, or out of time."""
        done = len(self.state.history)
        first_of_last = self.recipe.epochs - self.recipe.stages[-1].epochs
        since_best = done - max(self.state.best_epoch, first_of_last)
        is_out_of_time = self.state.seconds >= self.deadline_s
        return done >= self.recipe.epochs or since_best >= self.recipe.patience or is_out_of_time

    def _save(self) -> None:
        self.checkpoint.save(self.state, [np.asarray(v) for v in self._variables()])
        self._last_save = time.monotonic()

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        if not self.state.best_epoch or "val_accuracy" not in metrics:
            return True
        best = self.state.history[self.state.best_epoch - 1]
        return _score(metrics) >= _score(best)

    def _averaged(self) -> Any:
        return _Averaged(self.network) if self.recipe.average else _Plain()


class _Plain:
    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


class _Averaged:
    """Inside, the network has the moving averages of its weights."""

    def __init__(self, network: Any) -> None:
        self._weights = network.trainable_variables
        self._averages = network.optimizer._model_variables_moving_average

    def __enter__(self) -> None:
        self._raw = [np.asarray(weight) for weight in self._weights]
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(average)

    def __exit__(self, *error: object) -> None:
        for weight, value in zip(self._weights, self._raw, strict=True):
            weight.assign(value)


def validate(
    network: Any, pictures: NDArray[np.uint8], labels: NDArray[np.int64], batch_size: int
) -> dict[str, float]:
    """val_loss (log loss, nats) and val_accuracy on plain pictures; empty when there are none."""
    if not len(labels):
        return {}
    logits = predict(network, pictures, batch_size).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    losses = log_sum - logits[np.arange(len(labels)), labels]
    accuracy = float((logits.argmax(1) == labels).mean())
    return {"val_loss": float(losses.mean()), "val_accuracy": accuracy}


def predict(network: Any, pictures: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Logits float32 (N, classes). Every batch has the same size, so that nothing is traced twice."""
    outputs = []
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size].astype(np.float32)
        missing = batch_size - len(batch)
        padded = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
        outputs.append(np.asarray(network.predict_on_batch(padded))[: len(batch)])
    return np.concatenate(outputs)


def _score(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics["val_accuracy"], -metrics["val_loss"]


def _line(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.3f}" for name, value in metrics.items())
