"""Training: shards and a policy in, a trained network out, resumable at any moment."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from components import digest, records
from components.artifacts import Augmentation, Shards, Training
from components.progress import Progress, silent
from components.training import architectures, feed, keras_file, material, precision, pretrained, recipe
from components.training.architectures import LOGITS, ModelSettings, Plan, Statistics
from components.training.checkpoint import Checkpoint, State
from components.training.loop import Loop, OnEpoch
from components.training.recipe import Recipe, Stage
from components.training.recipe import TrainSettings as TrainSettings

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
) -> Training:
    """Train a network and write training.json and model.keras (float32, Keras's own layers) into `out`.

    What an earlier attempt left in `out` is taken up, and ends as an undisturbed run would.
    on_epoch: called with the number (1-based) and metrics of each epoch that this call trains.
    Raises InputError for an empty training part or weights that do not fit, StepError when the loss is no
    number.
    """
    shards, augmentation = Shards.load(shards_folder), Augmentation.load(augmentation_folder)
    plan = architectures.choose(model, shards)
    shape = feed.Shape(plan.height, plan.width, plan.channels, model.aspect)
    stuff = material.load(shards_folder, augmentation_folder, shards, augmentation, shape, settings.memory_mb)
    how = recipe.decide(
        settings,
        side=min(plan.height, plan.width),
        num_train=stuff.num_train,
        is_pretrained=architectures.is_pretrained(model, plan),
    )
    policy, why = precision.choose(settings.precision)
    log.info(
        "architecture=%s because=%r precision=%s because=%r train_images=%d in_memory=%s epochs=%d",
        plan.architecture, plan.why, policy, why, stuff.num_train, stuff.decoded is not None, how.epochs,
    )  # fmt: skip
    source = stuff.feed(how.batch_size, settings.seed, augmentation, settings.balance)
    with precision.policy(policy):
        network = _build(plan, model, stuff.statistics, settings.seed)
    checkpoint = Checkpoint(out / CHECKPOINT)
    mark = _fingerprint(shards, augmentation, plan, model, settings, how, policy)
    last = checkpoint.load(mark)
    state = last[0] if last else State(mark)
    bar = progress(
        total=how.epochs * source.steps * how.batch_size,
        desc="train",
        unit="image",
        initial=state.step * how.batch_size,
    )
    with bar as shown:
        loop = Loop(
            network, stuff.validation, how, checkpoint, state, source.steps,
            60 * settings.max_minutes, settings.checkpoint_s, shown, on_epoch,
        )  # fmt: skip
        if last:
            _enter(network, how, how.stage_at((state.step - 1) // source.steps)[0])
            loop.resume(last[1])
        _run(loop, source, is_resumed=bool(last))
    training = _finish(loop.state, checkpoint, plan, model, stuff.statistics, shards, policy, settings, out)
    checkpoint.remove()
    return training


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
            _enter(loop.network, loop.recipe, stage)
        is_resumed = True
        last = epoch + 1 if done else first + stage.epochs
        loop.network.fit(
            source.batches(loop.state.step, last * steps),
            initial_epoch=epoch,
            epochs=last,
            steps_per_epoch=steps - done,
            callbacks=[loop.callback()],
            shuffle=False,
            verbose=0,
        )


def _enter(network: Any, how: Recipe, stage: Stage) -> None:
    """Begin a stage: decide which layers learn, with a new optimiser."""
    import keras

    if how.is_pretrained:
        pretrained.trainable(network, stage.share, LOGITS)
    network.compile(
        optimizer=_optimizer(how, stage.learning_rate),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=how.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,  # on CPUs compiled steps took twice as long
    )
    network.optimizer.build(network.trainable_variables)


def _optimizer(how: Recipe, learning_rate: float) -> Any:
    import keras

    average = {"use_ema": True, "ema_momentum": how.average} if how.average else {}
    options = {"weight_decay": how.weight_decay or None, **average}
    if how.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True, **options)
    else:
        kind = keras.optimizers.Adam if how.optimizer == "adam" else keras.optimizers.AdamW
        optimizer = kind(learning_rate, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _finish(
    state: State,
    checkpoint: Checkpoint,
    plan: Plan,
    model: ModelSettings,
    statistics: Statistics,
    shards: Shards,
    policy: str,
    settings: TrainSettings,
    out: Path,
) -> Training:
    """Save the best weights in a plain float32 network, and then the record, which says that all is there."""
    with precision.policy(precision.FLOAT32):
        network = architectures.build(plan, model, statistics, fused=False)
    network.set_weights(checkpoint.load_best(state.best_epoch))
    keras_file.save(network, out / MODEL)
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
        precision=policy,
        seed=settings.seed,
        aspect=model.aspect,
    )
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
) -> str:
    """Of all that decides the weights; how long to train at most and how often to save do not."""
    settings = replace(settings, max_minutes=1.0, checkpoint_s=0.0)
    parts = [records.to_dict(part) for part in (augmentation, plan, model, settings, how)]
    return digest.of_data([shards.fingerprint, policy, *parts])
