"""The training loop: learning rate, progress, validation and checkpoints around each step and epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pergola.components.errors import StepError
from pergola.components.progress import Bar
from pergola.components.training.checkpoint import Checkpoint, State
from pergola.components.training.distribution import Workers
from pergola.components.training.hyperparameters import Hyperparameters, learning_rate_at
from pergola.components.training.validation import forward_of, validate

VALIDATION_BATCH = 128  # images that use a processor fully; depthwise convolutions of fewer are slow

OnEpoch = Callable[[int, Mapping[str, float]], None]


@dataclass
class Loop:
    """The steps and epochs of one training. Each updates `state`."""

    network: Any
    workers: Workers
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    hyperparameters: Hyperparameters
    checkpoint: Checkpoint
    state: State
    steps: int  # per epoch
    deadline_s: float
    checkpoint_s: float
    is_compiled: bool  # by XLA
    bar: Bar
    on_epoch: OnEpoch | None

    def __post_init__(self) -> None:
        self._resumed: list[NDArray[Any]] | None = None
        self._last_save = time.monotonic()
        self._forward = forward_of(self.network)
        self.speed = Speed()

    def resume(self, variables: list[NDArray[Any]]) -> None:
        """Restore variables; those of the metrics after they were reset for the epoch."""
        own = [*self.network.variables, *self.network.optimizer.variables]
        for variable, value in zip(own, variables[: len(own)], strict=True):
            variable.assign(value)
        if self.state.step % self.steps:  # otherwise the epoch is complete, and its metrics are not needed
            self._resumed = variables[len(own) :]

    def train(self, batches: Iterable[Any], last_step: int) -> None:
        """Train on `batches` up to a step (over all epochs), or until training is done."""
        step = step_of(self.network, self.workers, is_compiled=self.is_compiled)
        iterator = iter(batches)
        while self.state.step < last_step and not self.is_done():
            self.network.reset_metrics()
            self._restore_metrics()
            while True:
                self._set_learning_rate()
                begin = time.monotonic()
                batch = next(iterator)
                waited = time.monotonic() - begin
                logs = {name: float(value) for name, value in step(batch).items()}
                self._end_step(logs, time.monotonic() - begin, waited)
                if self.state.step % self.steps == 0:
                    break
                if time.monotonic() - self._last_save > self.checkpoint_s:
                    self._save()
            self._end_epoch(logs)

    def _restore_metrics(self) -> None:
        if self._resumed is None:
            return
        for variable, value in zip(self.network.metrics_variables, self._resumed, strict=True):
            variable.assign(value)
        self._resumed = None

    def _variables(self) -> list[Any]:
        network = self.network
        return [*network.variables, *network.optimizer.variables, *network.metrics_variables]

    def _set_learning_rate(self) -> None:
        parts = self.state.accumulate
        step, steps = self.state.step // parts, self.steps // parts
        value = learning_rate_at(self.hyperparameters, step, steps)
        self.network.optimizer.learning_rate.assign(value)

    def _end_step(self, logs: Mapping[str, float], seconds: float, waited: float) -> None:
        if not math.isfinite(logs["loss"]):
            peak = self.hyperparameters.stages[0].learning_rate
            raise StepError(
                f"Training diverged: the loss became {logs['loss']} at step {self.state.step + 1} "
                f"(learning rate {peak:g}). Try --set train.learning_rate={peak / 4:g} or "
                "--set train.precision=float32."
            )
        num_images = self.hyperparameters.batch_size // self.state.accumulate
        self.speed.add(num_images, seconds, waited)
        self.state = replace(self.state, step=self.state.step + 1, seconds=self.state.seconds + seconds)
        self.bar.update(num_images)

    def _end_epoch(self, logs: Mapping[str, float]) -> None:
        metrics = {"loss": logs["loss"], "accuracy": logs["accuracy"]}
        with self._averaged():
            metrics |= validate(self._forward, *self.validation, self._validation_batch())
            is_best = self._is_best(metrics)
            if is_best:
                epoch = len(self.state.history) + 1
                self.checkpoint.save_best(epoch, self.network.get_weights())
        self.state = self.state.with_epoch(metrics, is_best=is_best)
        self.state = replace(self.state, seconds=max(self.workers.gather(self.state.seconds)))
        self._save()
        if self.on_epoch and self.workers.is_chief:
            self.on_epoch(len(self.state.history), {**metrics, **self.speed.figures(self.state.seconds)})
        self.bar.set_postfix_str(_summary(metrics))

    def _validation_batch(self) -> int:
        """At most four times the training batch: without gradients, that many images fit into memory."""
        batch = max(1, self.hyperparameters.batch_size // self.state.accumulate)
        return max(batch, min(4 * batch, VALIDATION_BATCH))

    def is_done(self) -> bool:
        """Whether to stop: all epochs done, no improvement, or out of time."""
        done = len(self.state.history)
        first_of_last = self.hyperparameters.epochs - self.hyperparameters.stages[-1].epochs
        since_best = done - max(self.state.best_epoch, first_of_last)
        is_out_of_time = self.state.seconds >= self.deadline_s
        return (
            done >= self.hyperparameters.epochs
            or since_best >= self.hyperparameters.patience
            or is_out_of_time
        )

    def _save(self) -> None:
        self.checkpoint.save(self.state, [np.asarray(v) for v in self._variables()])
        self._last_save = time.monotonic()

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        if not self.state.best_epoch or "val_accuracy" not in metrics:
            return True
        best = self.state.history[self.state.best_epoch - 1]
        return _score(metrics) >= _score(best)

    def _averaged(self) -> Any:
        return _Averaged(self.network) if self.hyperparameters.average else nullcontext()


@dataclass
class Speed:
    """Throughput of this process, and the share of time spent waiting for input."""

    num_images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, num_images: int, seconds: float, waited: float) -> None:
        """Add a step. waited: seconds of it spent waiting for its batch."""
        self.num_images += num_images
        self.seconds += seconds
        self.waited += waited

    def figures(self, total_s: float) -> dict[str, float]:
        """seconds of training in all attempts; images_per_s and input_wait (a share) of this attempt."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": total_s,
            "images_per_s": self.num_images / seconds,
            "input_wait": self.waited / seconds,
        }


def step_of(network: Any, workers: Workers, *, is_compiled: bool) -> Callable[[Any], Mapping[str, Any]]:
    """One training step on a batch; returns loss and accuracy of the epoch so far, over all workers."""
    import tensorflow as tf

    if workers.parallel == 1:
        return tf.function(
            network.train_step, autograph=False, reduce_retracing=True, jit_compile=is_compiled or None
        )

    @tf.function(autograph=False, reduce_retracing=True)
    def distributed(batch: Any) -> Any:
        logs = workers.strategy.run(network.train_step, args=(batch,))
        return {
            name: workers.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in logs.items()
        }

    return distributed


class _Averaged:
    """Inside the context, the network's weights are their moving averages."""

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


def _score(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics["val_accuracy"], -metrics["val_loss"]


def _summary(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.3f}" for name, value in metrics.items())
