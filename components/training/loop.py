"""What happens around each step and each epoch of training: rate, progress, checks, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pergola.components.errors import StepError
from pergola.components.progress import Bar
from pergola.components.training.checkpoint import Checkpoint, State
from pergola.components.training.distribution import Workers
from pergola.components.training.hyperparameters import Recipe, rate

AT_ONCE = 128  # images whose forward pass fills a processor; depthwise convolutions of few are slow

OnEpoch = Callable[[int, Mapping[str, float]], None]
Forward = Callable[[NDArray[np.float32]], Any]  # images (N, H, W, C) to logits (N, classes)


@dataclass
class Loop:
    """The steps and epochs of one training. `state` grows with them."""

    network: Any
    workers: Workers
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    recipe: Recipe
    checkpoint: Checkpoint
    state: State
    steps: int  # an epoch
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
        """Put variables back; those of the metrics once they have been reset for the epoch."""
        own = [*self.network.variables, *self.network.optimizer.variables]
        for variable, value in zip(own, variables[: len(own)], strict=True):
            variable.assign(value)
        if self.state.step % self.steps:  # else the epoch is over, and so is what was measured in it
            self._resumed = variables[len(own) :]

    def train(self, batches: Iterable[Any], last_step: int) -> None:
        """Train on `batches` up to a step, counted from the start, or until training is done."""
        step = step_of(self.network, self.workers, is_compiled=self.is_compiled)
        iterator = iter(batches)
        while self.state.step < last_step and not self.is_done():
            self.network.reset_metrics()
            self._restore_metrics()
            while True:
                self._set_rate()
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

    def _set_rate(self) -> None:
        parts = self.state.accumulate
        value = rate(self.recipe, self.state.step // parts, self.steps // parts)
        self.network.optimizer.learning_rate.assign(value)

    def _end_step(self, logs: Mapping[str, float], seconds: float, waited: float) -> None:
        if not math.isfinite(logs["loss"]):
            highest = self.recipe.stages[0].learning_rate
            raise StepError(
                f"Training broke down: the loss became {logs['loss']} at step {self.state.step + 1} "
                f"(learning rate {highest:g}). Try --set train.learning_rate={highest / 4:g} or "
                "--set train.precision=float32."
            )
        num_images = self.recipe.batch_size // self.state.accumulate
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
        self.bar.set_postfix_str(_line(metrics))

    def _validation_batch(self) -> int:
        """Larger than a small training batch: without gradients, four times as many fit into memory."""
        piece = max(1, self.recipe.batch_size // self.state.accumulate)
        return max(piece, min(4 * piece, AT_ONCE))

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


@dataclass
class Speed:
    """How fast this process trains, and how much of the time it waits for its input."""

    num_images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, num_images: int, seconds: float, waited: float) -> None:
        """One more step, of whose seconds so many were spent waiting for its batch."""
        self.num_images += num_images
        self.seconds += seconds
        self.waited += waited

    def figures(self, total_s: float) -> dict[str, float]:
        """seconds: of training in all attempts. images_per_s and input_wait, a share: of this attempt."""
        seconds = max(self.seconds, 1e-9)
        return {
            "seconds": total_s,
            "images_per_s": self.num_images / seconds,
            "input_wait": self.waited / seconds,
        }


def step_of(network: Any, workers: Workers, *, is_compiled: bool) -> Callable[[Any], Mapping[str, Any]]:
    """One training step on a batch: gives loss and accuracy of the epoch so far, over all workers."""
    import tensorflow as tf

    if workers.parallel == 1:
        return tf.function(network.train_step, reduce_retracing=True, jit_compile=is_compiled or None)

    @tf.function(reduce_retracing=True)
    def together(batch: Any) -> Any:
        logs = workers.strategy.run(network.train_step, args=(batch,))
        return {
            name: workers.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)
            for name, value in logs.items()
        }

    return together


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
    forward: Forward, images: NDArray[np.uint8], labels: NDArray[np.int64], batch_size: int
) -> dict[str, float]:
    """val_loss (log loss, nats) and val_accuracy on plain images; empty when there are none."""
    if not len(labels):
        return {}
    logits = predict(forward, images, batch_size).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    log_sum = np.log(np.exp(logits).sum(1))
    losses = log_sum - logits[np.arange(len(labels)), labels]
    accuracy = float((logits.argmax(1) == labels).mean())
    return {"val_loss": float(losses.mean()), "val_accuracy": accuracy}


def forward_of(network: Any) -> Forward:
    """The network's answers, traced once: Keras traces its own anew after each `compile`."""
    import tensorflow as tf

    return tf.function(lambda images: network(images, training=False), autograph=False)


def predict(forward: Forward, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Logits float32 (N, classes), of about equal batches of at most `batch_size` images.

    Every batch has the same size, so that nothing is traced twice.
    """
    batch_size = math.ceil(len(images) / math.ceil(len(images) / batch_size))
    outputs = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size].astype(np.float32)
        missing = batch_size - len(batch)
        padded = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), np.float32)])
        outputs.append(np.asarray(forward(padded))[: len(batch)])
    return np.concatenate(outputs)


def _score(metrics: Mapping[str, float]) -> tuple[float, float]:
    return metrics["val_accuracy"], -metrics["val_loss"]


def _line(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.3f}" for name, value in metrics.items())
