"""Training: from shards and an augmentation policy to a trained network, resumable at any moment."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components import digest, records
from pergola.components.artifacts.data import Shards
from pergola.components.artifacts.training import Augmentation, Training
from pergola.components.errors import InputError, StepError
from pergola.components.imaging import pretrained
from pergola.components.progress import Progress, silent
from pergola.components.training import distribution, hyperparameters, keras_file, optimizers, precision
from pergola.components.training.checkpoint import Checkpoint, State
from pergola.components.training.distribution import Workers
from pergola.components.training.hyperparameters import Hyperparameters, Stage
from pergola.components.training.hyperparameters import TrainSettings as TrainSettings
from pergola.components.training.input import feed, training_data
from pergola.components.training.input.images import ImageShape
from pergola.components.training.loop import Loop, OnEpoch
from pergola.components.training.models import architectures
from pergola.components.training.models.architectures import LOGITS, ModelSettings, Plan
from pergola.components.training.models.statistics import Statistics

log = logging.getLogger(__name__)

MODEL = "model.keras"
CHECKPOINT = "checkpoint"


def fit(
    shards_folder: Path,
    augmentation_folder: Path,
    out: Path,
    model: ModelSettings,
    settings: TrainSettings,
    *,
    progress: Progress = silent,
    on_epoch: OnEpoch | None = None,
    workers: Workers | None = None,
) -> Training:
    """Train a network and write training.json and model.keras (float32, Keras's own layers) into `out`.

    Resumes from a checkpoint in `out` and ends with the same weights as an uninterrupted run. A batch that
    does not fit into memory is split, with gradient accumulation. With TF_CONFIG (see
    components/training/distribution.py) every worker calls this with the same arguments and a shared `out`;
    only worker 0 writes and reports.
    on_epoch: called after each epoch that this call trains, with its number (1-based) and its metrics:
    "seconds" of training in all attempts, "images_per_s" and "input_wait", the share of time without input.
    workers: None: from TF_CONFIG and the GPUs that this process sees.
    Raises InputError for an empty training split, weights that do not fit or XLA with several devices,
    StepError when the loss is not finite or when a single image does not fit into memory.
    """
    workers = workers or distribution.find()
    _check_xla(settings, workers)
    shards, augmentation = Shards.load(shards_folder), Augmentation.load(augmentation_folder)
    plan = architectures.choose(model, shards)
    shape = ImageShape(plan.height, plan.width, plan.channels, model.aspect)
    data = training_data.load(
        shards_folder, augmentation_folder, shards, augmentation, shape, settings.memory_mb
    )
    chosen = _divisible(
        hyperparameters.decide(
            settings,
            side=min(plan.height, plan.width),
            num_train=data.num_train,
            is_pretrained=architectures.is_pretrained(model, plan),
            optimizer=architectures.optimizer(plan),
        ),
        workers,
    )
    policy, why = precision.choose(settings.precision, depthwise=architectures.is_depthwise(plan))
    log.info(
        "architecture=%s because=%r precision=%s because=%r train_images=%d in_memory=%s epochs=%d "
        "workers=%d",
        plan.architecture, plan.why, policy, why, data.num_train, data.decoded is not None, chosen.epochs,
        workers.parallel,
    )  # fmt: skip
    fingerprint = _fingerprint(shards, augmentation, plan, model, settings, chosen, policy, workers)
    checkpoint = Checkpoint(out / CHECKPOINT, writes=workers.is_chief)
    job = _Job(
        plan, model, settings, chosen, policy, data, augmentation, workers, checkpoint, fingerprint, progress,
        on_epoch,
    )  # fmt: skip
    state = _within_memory(job)
    training = _finish(state, job, shards, out)
    checkpoint.remove()
    return training


@dataclass(frozen=True)
class _Job:
    """Everything that one training needs."""

    plan: Plan
    model: ModelSettings
    settings: TrainSettings
    hyperparameters: Hyperparameters
    policy: str  # dtype
    data: training_data.TrainingData
    augmentation: Augmentation
    workers: Workers
    checkpoint: Checkpoint
    fingerprint: str
    progress: Progress
    on_epoch: OnEpoch | None


def _within_memory(job: _Job) -> State:
    """Train; when memory runs out, restart with more gradient accumulation."""
    import tensorflow as tf

    while True:
        last = job.checkpoint.load(job.fingerprint)
        state, variables = last or (State(job.fingerprint), [])
        try:
            return _train(job, state, variables)
        except tf.errors.ResourceExhaustedError:
            parts = _more_parts(job, state.accumulate)
        job.checkpoint.save(State(job.fingerprint, accumulate=parts), [])
        batch = job.hyperparameters.batch_size
        log.warning(
            "%d images at once do not fit into memory: restarting with %d at once in batches of %d",
            batch // state.accumulate, batch // parts, batch,
        )  # fmt: skip


def _more_parts(job: _Job, parts: int) -> int:
    """Into how many parts to split a batch next: the smallest divisor of at least twice as many."""
    batch = job.hyperparameters.batch_size
    if parts >= batch or job.workers.parallel > 1:
        each = batch // parts // job.workers.parallel
        raise StepError(
            f"Memory ran out with {each} image{'s' if each > 1 else ''} at once. Try a smaller "
            "--set train.batch_size, a smaller --set model.image_size or another --set model.architecture."
        ) from None
    return next(number for number in range(2 * parts, batch + 1) if batch % number == 0)


def _train(job: _Job, state: State, variables: list[Any]) -> State:
    """Train all stages from a state on; returns the last state."""
    workers, settings, chosen = job.workers, job.settings, job.hyperparameters
    split = feed.BatchSplit(state.accumulate, workers.index, workers.count, workers.replicas)
    source = job.data.feed(chosen.batch_size, settings.seed, job.augmentation, settings.balance, split)
    with precision.policy(job.policy), workers.strategy.scope():
        network = _build(job.plan, job.model, job.data.statistics, settings.seed)
        if len(set(workers.gather(state.step))) > 1:
            raise StepError("Workers resume from different steps. Give all of them the same output folder.")
        at_once = chosen.batch_size // state.accumulate
        bar = job.progress(
            total=chosen.epochs * source.steps * at_once,
            desc="train",
            unit="image",
            initial=state.step * at_once,
        )
        with bar as shown:
            loop = Loop(
                network, workers, job.data.validation, chosen, job.checkpoint, state, source.steps,
                60 * settings.max_minutes, settings.checkpoint_s, settings.xla, shown, job.on_epoch,
            )  # fmt: skip
            if variables:
                stage, _ = chosen.stage_at((state.step - 1) // source.steps)
                _start_stage(network, chosen, stage, state.accumulate)
                loop.resume(variables)
            _run(loop, source, is_resumed=bool(variables))
    return loop.state


def _check_xla(settings: TrainSettings, workers: Workers) -> None:
    if settings.xla and workers.parallel > 1:
        raise InputError(
            f"train.xla compiles steps for one device, but {workers.parallel} devices train together. "
            "Leave train.xla off, or train on one device."
        )


def _divisible(chosen: Hyperparameters, workers: Workers) -> Hyperparameters:
    """With a batch size that is a multiple of the number of replicas."""
    each = max(1, chosen.batch_size // workers.parallel)
    return replace(chosen, batch_size=each * workers.parallel)


def _build(plan: Plan, model: ModelSettings, statistics: Statistics, seed: int) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    return architectures.build(plan, model, statistics, fused=True)


def _run(loop: Loop, source: feed.Feed, *, is_resumed: bool) -> None:
    """Train stage after stage; a resumed run first completes its current epoch and stage."""
    steps = source.steps
    while not loop.is_done():
        epoch, done = divmod(loop.state.step, steps)
        stage, first = loop.hyperparameters.stage_at(epoch)
        if not is_resumed or (epoch == first and not done):
            _start_stage(loop.network, loop.hyperparameters, stage, loop.state.accumulate)
        is_resumed = True
        last = epoch + 1 if done else first + stage.epochs
        loop.train(loop.workers.distribute(source.batches(loop.state.step, last * steps)), last * steps)


def _start_stage(network: Any, chosen: Hyperparameters, stage: Stage, accumulate: int) -> None:
    """Set which layers are trained, and compile with a new optimiser."""
    import keras

    if chosen.is_pretrained:
        pretrained.trainable(network, stage.share, LOGITS)
    network.compile(
        optimizer=optimizers.optimizer(chosen, stage.learning_rate, accumulate),
        loss=optimizers.loss(chosen),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # with train.xla, components/training/loop.py compiles the steps
    )
    network.optimizer.build(network.trainable_variables)
    empty = np.zeros((1, network.output_shape[-1]), np.float32)
    network.compute_metrics(None, empty, empty)  # creates the variables of the metrics


def _finish(state: State, job: _Job, shards: Shards, out: Path) -> Training:
    """Save the best weights in a float32 network, then the record, which marks the training as complete."""
    plan = job.plan
    with precision.policy(precision.FLOAT32):
        network = architectures.build(plan, job.model, job.data.statistics, fused=False)
    training = Training(
        architecture=plan.architecture,
        why=plan.why,
        labels=shards.labels,
        height=plan.height,
        width=plan.width,
        channels=plan.channels,
        num_parameters=network.count_params(),
        epochs=len(state.history),
        best_epoch=state.best_epoch,
        history=state.history,
        precision=job.policy,
        seed=job.settings.seed,
        aspect=job.model.aspect,
    )
    if job.workers.is_chief:
        network.set_weights(job.checkpoint.load_best(state.best_epoch))
        keras_file.save(network, out / MODEL)
        training.save(out)
    return training


def _fingerprint(
    shards: Shards,
    augmentation: Augmentation,
    plan: Plan,
    model: ModelSettings,
    settings: TrainSettings,
    chosen: Hyperparameters,
    policy: str,
    workers: Workers,
) -> str:
    """Of everything that determines the weights. The time limit and the checkpoint interval do not."""
    settings = replace(settings, max_minutes=1.0, checkpoint_s=0.0)
    parts = [records.to_dict(part) for part in (augmentation, plan, model, settings, chosen)]
    return digest.of_data([shards.fingerprint, policy, workers.parallel, *parts])
