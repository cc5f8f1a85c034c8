"""Training: shards and a policy in, a trained network out, resumable at any moment."""

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
from pergola.components.imaging import (
    pretrained,
)
from pergola.components.progress import Progress, silent
from pergola.components.training import (
    distribution,
    hyperparameters,
    keras_file,
    muon,
    precision,
)
from pergola.components.training.checkpoint import Checkpoint, State
from pergola.components.training.distribution import Workers
from pergola.components.training.hyperparameters import Recipe, Stage
from pergola.components.training.hyperparameters import TrainSettings as TrainSettings
from pergola.components.training.input import (
    feed,
    training_data,
)
from pergola.components.training.loop import Loop, OnEpoch
from pergola.components.training.models import (
    architectures,
)
from pergola.components.training.models.architectures import LOGITS, ModelSettings, Plan, Statistics

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

    What an earlier attempt left in `out` is taken up, and ends as an undisturbed run would. A batch that does
    not fit into memory is computed in parts, whose gradients are added up. With TF_CONFIG (see
    components/training/distribution.py) every worker calls this with the same arguments and an `out` that all
    of them share; worker 0 alone writes and tells.
    on_epoch: called with the number (1-based) and metrics of each epoch that this call trains, and "seconds"
    of training in all attempts, "images_per_s" and "input_wait", the share of time that waits for batches.
    workers: on what to train; None: by TF_CONFIG and the GPUs that this process sees.
    Raises InputError for an empty training part, weights that do not fit or XLA for several devices,
    StepError when the loss is no number or not even one image fits into memory.
    """
    workers = workers or distribution.find()
    _check_xla(settings, workers)
    shards, augmentation = Shards.load(shards_folder), Augmentation.load(augmentation_folder)
    plan = architectures.choose(model, shards)
    shape = feed.Shape(plan.height, plan.width, plan.channels, model.aspect)
    stuff = training_data.load(
        shards_folder, augmentation_folder, shards, augmentation, shape, settings.memory_mb
    )
    how = _divisible(
        hyperparameters.decide(
            settings,
            side=min(plan.height, plan.width),
            num_train=stuff.num_train,
            is_pretrained=architectures.is_pretrained(model, plan),
            optimizer=architectures.optimizer(plan),
        ),
        workers,
    )
    policy, why = precision.choose(settings.precision, depthwise=architectures.is_depthwise(plan))
    log.info(
        "architecture=%s because=%r precision=%s because=%r train_images=%d in_memory=%s epochs=%d "
        "workers=%d",
        plan.architecture, plan.why, policy, why, stuff.num_train, stuff.decoded is not None, how.epochs,
        workers.parallel,
    )  # fmt: skip
    mark = _fingerprint(shards, augmentation, plan, model, settings, how, policy, workers)
    checkpoint = Checkpoint(out / CHECKPOINT, writes=workers.is_chief)
    job = _Job(
        plan, model, settings, how, policy, stuff, augmentation, workers, checkpoint, mark, progress, on_epoch
    )
    state = _within_memory(job)
    training = _finish(state, job, shards, out)
    checkpoint.remove()
    return training


@dataclass(frozen=True)
class _Job:
    """What one training is made of."""

    plan: Plan
    model: ModelSettings
    settings: TrainSettings
    how: Recipe
    policy: str
    stuff: training_data.Material
    augmentation: Augmentation
    workers: Workers
    checkpoint: Checkpoint
    mark: str
    progress: Progress
    on_epoch: OnEpoch | None


def _within_memory(job: _Job) -> State:
    """Train; when memory runs out, start over with smaller parts of a batch."""
    import tensorflow as tf

    while True:
        last = job.checkpoint.load(job.mark)
        state, variables = last or (State(job.mark), [])
        try:
            return _train(job, state, variables)
        except tf.errors.ResourceExhaustedError:
            parts = _more_parts(job, state.accumulate)
        job.checkpoint.save(State(job.mark, accumulate=parts), [])
        log.warning(
            "%d images at once do not fit into memory: starting over with %d at once in batches of %d",
            job.how.batch_size // state.accumulate, job.how.batch_size // parts, job.how.batch_size,
        )  # fmt: skip


def _more_parts(job: _Job, parts: int) -> int:
    """Into how many parts to cut a batch next: the smallest divisor from twice as many on."""
    batch = job.how.batch_size
    if parts >= batch or job.workers.parallel > 1:
        each = batch // parts // job.workers.parallel
        raise StepError(
            f"Memory ran out with {each} image{'s' if each > 1 else ''} at once. Try a smaller "
            "--set train.batch_size, a smaller --set model.image_size or another --set model.architecture."
        ) from None
    return next(number for number in range(2 * parts, batch + 1) if batch % number == 0)


def _train(job: _Job, state: State, variables: list[Any]) -> State:
    """All stages, from a state on; gives the last state."""
    workers, settings, how = job.workers, job.settings, job.how
    cut = feed.Cut(state.accumulate, workers.index, workers.count, workers.replicas)
    source = job.stuff.feed(how.batch_size, settings.seed, job.augmentation, settings.balance, cut)
    with precision.policy(job.policy), workers.strategy.scope():
        network = _build(job.plan, job.model, job.stuff.statistics, settings.seed)
        if len(set(workers.gather(state.step))) > 1:
            raise StepError("Workers go on from different steps. Give all of them one folder to write to.")
        at_once = how.batch_size // state.accumulate
        bar = job.progress(
            total=how.epochs * source.steps * at_once,
            desc="train",
            unit="image",
            initial=state.step * at_once,
        )
        with bar as shown:
            loop = Loop(
                network, workers, job.stuff.validation, how, job.checkpoint, state, source.steps,
                60 * settings.max_minutes, settings.checkpoint_s, settings.xla, shown, job.on_epoch,
            )  # fmt: skip
            if variables:
                _enter(network, how, how.stage_at((state.step - 1) // source.steps)[0], state.accumulate)
                loop.resume(variables)
            _run(loop, source, is_resumed=bool(variables))
    return loop.state


def _check_xla(settings: TrainSettings, workers: Workers) -> None:
    if settings.xla and workers.parallel > 1:
        raise InputError(
            f"train.xla compiles steps for one device, and {workers.parallel} train together. "
            "Leave it out, or let one of them train."
        )


def _divisible(how: Recipe, workers: Workers) -> Recipe:
    """With a batch of which every replica gets an equal part."""
    each = max(1, how.batch_size // workers.parallel)
    return replace(how, batch_size=each * workers.parallel)


def _build(plan: Plan, model: ModelSettings, statistics: Statistics, seed: int) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    return architectures.build(plan, model, statistics, fused=True)


def _run(loop: Loop, source: feed.Feed, *, is_resumed: bool) -> None:
    """Train stage after stage; a resumed run first ends the epoch and stage that it was in."""
    steps = source.steps
    while not loop.is_done():
        epoch, done = divmod(loop.state.step, steps)
        stage, first = loop.recipe.stage_at(epoch)
        if not is_resumed or (epoch == first and not done):
            _enter(loop.network, loop.recipe, stage, loop.state.accumulate)
        is_resumed = True
        last = epoch + 1 if done else first + stage.epochs
        loop.train(loop.workers.distribute(source.batches(loop.state.step, last * steps)), last * steps)


def _enter(network: Any, how: Recipe, stage: Stage, accumulate: int) -> None:
    """Begin a stage: decide which layers learn, with a new optimiser."""
    import keras

    if how.is_pretrained:
        pretrained.trainable(network, stage.share, LOGITS)
    network.compile(
        optimizer=_optimizer(how, stage.learning_rate, accumulate),
        loss=_loss(how),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # components/training/loop.py compiles steps where train.xla asks for it
    )
    network.optimizer.build(network.trainable_variables)
    nothing = np.zeros((1, network.output_shape[-1]), np.float32)
    network.compute_metrics(None, nothing, nothing)  # Keras makes their variables at first use


def _loss(how: Recipe) -> Any:
    import keras

    options = {"from_logits": True, "label_smoothing": how.label_smoothing}
    if how.focal:  # Lin et al., 2017; alpha scales all classes alike, which the learning rate does already
        return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=how.focal, **options)
    return keras.losses.CategoricalCrossentropy(**options)


def _optimizer(how: Recipe, learning_rate: float, accumulate: int) -> Any:
    import keras

    options: dict[str, Any] = {"weight_decay": how.weight_decay or None}
    if how.average:  # Keras moves averages at every part of a batch
        options |= {"use_ema": True, "ema_momentum": how.average ** (1 / accumulate)}
    if accumulate > 1:
        options |= {"gradient_accumulation_steps": accumulate}
    if how.optimizer == "muon":
        optimizer = muon.muon(learning_rate, keras.config.dtype_policy().compute_dtype, **options)
    elif how.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True, **options)
    else:
        kind = keras.optimizers.Adam if how.optimizer == "adam" else keras.optimizers.AdamW
        optimizer = kind(learning_rate, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _finish(state: State, job: _Job, shards: Shards, out: Path) -> Training:
    """Save the best weights in a plain float32 network, and then the record, which says that all is there."""
    plan = job.plan
    with precision.policy(precision.FLOAT32):
        network = architectures.build(plan, job.model, job.stuff.statistics, fused=False)
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
    how: Recipe,
    policy: str,
    workers: Workers,
) -> str:
    """Of all that decides the weights; how long to train at most and how often to save do not."""
    settings = replace(settings, max_minutes=1.0, checkpoint_s=0.0)
    parts = [records.to_dict(part) for part in (augmentation, plan, model, settings, how)]
    return digest.of_data([shards.fingerprint, policy, workers.parallel, *parts])
