"""Training: shards and a policy in, a trained network out, resumable at any moment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components import digest, records
from components.artifacts import TRAIN, VALIDATION, Augmentation, Part, Shards, Training
from components.errors import InputError
from components.progress import Progress, silent
from components.training import architectures, feed, keras_file, precision
from components.training.architectures import ModelSettings, Plan
from components.training.checkpoint import Checkpoint, State
from components.training.loop import Loop, OnEpoch, Recipe

log = logging.getLogger(__name__)

MODEL = "model.keras"
_MEASURED = 2000  # pictures whose mean and deviation stand for all, where not all fit into memory


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained. 0 and auto mean: by the data."""

    seed: int = records.setting(0, "of weights, order and variation: equal seeds, equal runs", low=0)
    epochs: int = records.setting(0, "passes over the training pictures; 0: by their number", low=0)
    batch_size: int = records.setting(0, "pictures a step; 0: by their number", low=0, high=8192)
    optimizer: str = records.setting("auto", "how weights move", choices=("auto", "adam", "adamw", "sgd"))
    learning_rate: float = records.setting(
        0.0, "the highest, after warm-up; 0: by the optimiser", low=0.0, high=10.0
    )
    warmup: float = records.setting(0.15, "share of the steps in which the rate rises", low=0.0, high=0.9)
    weight_decay: float = records.setting(-1.0, "pull of weights to zero; -1: by the optimiser", low=-1.0)
    label_smoothing: float = records.setting(0.1, "share of a label spread over all", low=0.0, high=0.5)
    average: float = records.setting(
        0.03, "share of training over which weights are averaged; 0: take them as they are", low=0.0, high=0.5
    )
    patience: int = records.setting(0, "end after so many epochs without a better one; 0: half of all", low=0)
    balance: str = records.setting(
        "auto", "weigh rare classes more; auto: if one is 1.5 times another", choices=("auto", "on", "off")
    )
    precision: str = records.setting(
        precision.AUTO, "numbers to compute in; auto: bfloat16 where it is fast", choices=precision.CHOICES
    )
    max_minutes: float = records.setting(
        60.0, "end after the epoch in which so many minutes of training are over", low=0.01
    )
    memory_mb: int = records.setting(1500, "decode pictures once if they fit in so many megabytes", low=0)
    checkpoint_s: float = records.setting(30.0, "seconds of training that a kill may cost at most", low=0.0)


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
    Raises InputError for an empty training part, StepError when the loss is not a number.
    """
    shards, augmentation = Shards.load(shards_folder), Augmentation.load(augmentation_folder)
    plan = architectures.choose(model, shards)
    data = _load(shards_folder, augmentation_folder, shards, augmentation, plan, model, settings)
    recipe = _recipe(settings, plan, data.num_train)
    policy, why = precision.choose(settings.precision)
    log.info("architecture=%s because=%r precision=%s because=%r", plan.architecture, plan.why, policy, why)
    with precision.policy(policy):
        network = _network(plan, model, data.statistics, recipe, settings.seed, fused=True)
    source = data.feed(recipe, settings, augmentation)
    checkpoint = Checkpoint(out / "checkpoint")
    mark = _fingerprint(shards, augmentation, plan, model, settings, recipe, policy)
    last = checkpoint.load(mark)
    state = last[0] if last else State(mark, epochs=recipe.epochs)
    total = state.epochs * source.steps * recipe.batch_size
    done = state.step * recipe.batch_size
    with progress(total=total, desc="train", unit="image", initial=done) as bar:
        loop = Loop(
            network, data.validation, recipe, checkpoint, state, source.steps,
            60 * settings.max_minutes, settings.checkpoint_s, bar, on_epoch,
        )  # fmt: skip
        if last:
            loop.resume(last[1])
        _run(loop, source)
    training = _finish(loop, plan, model, data.statistics, shards, policy, settings.seed, out)
    checkpoint.remove()
    return training


@dataclass(frozen=True)
class _Data:
    """Where training pictures come from, and the validation part, decoded."""

    files: tuple[str, ...]
    num_train: int
    shape: feed.Shape
    pictures: tuple[NDArray[np.uint8], NDArray[np.int64]] | None  # decoded; None: to be streamed
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    statistics: architectures.Statistics
    by_label: Mapping[str, int]
    labels: tuple[str, ...]

    def feed(self, recipe: Recipe, settings: TrainSettings, augmentation: Augmentation) -> feed.Feed:
        weights = class_weights(settings.balance, [self.by_label.get(name, 0) for name in self.labels])
        variety = feed.Variety(
            recipe.batch_size, settings.seed, augmentation.policy, len(self.labels), weights
        )
        if self.pictures:
            return feed.MemoryFeed(*self.pictures, variety)
        return feed.StreamFeed(self.files, self.num_train, self.shape, variety)


def class_weights(balance: str, counts: list[int]) -> tuple[float, ...]:
    """A weight a class, inverse to its number of pictures, 1 on average over pictures; () for none."""
    present = [count for count in counts if count]
    if balance == "off" or (balance == "auto" and max(present) < 1.5 * min(present)):
        return ()
    share = sum(present) / len(present)
    return tuple(share / count if count else 1.0 for count in counts)


def _load(
    shards_folder: Path,
    augmentation_folder: Path,
    shards: Shards,
    augmentation: Augmentation,
    plan: Plan,
    model: ModelSettings,
    settings: TrainSettings,
) -> _Data:
    shape = feed.Shape(plan.height, plan.width, plan.channels, model.aspect)
    part = _with_extra(shards_folder, shards.parts[TRAIN], augmentation_folder, augmentation.extra)
    if not part.num_images:
        raise InputError(f"{shards_folder} has no training pictures. Lower the other parts in [split].")
    fits = part.num_images * shape.num_bytes <= settings.memory_mb * 1_000_000
    num_read = part.num_images if fits else min(part.num_images, _MEASURED)
    held_out = shards.parts.get(VALIDATION) or Part((), 0, {})
    wanted = [
        (part.files, num_read),
        ([str(shards_folder / name) for name in held_out.files], held_out.num_images),
    ]
    train, validation = feed.read_all(wanted, shape)
    log.info("train_images=%d in_memory=%s", part.num_images, fits)
    return _Data(
        part.files,
        part.num_images,
        shape,
        train if fits else None,
        validation,
        architectures.measure(train[0]),
        part.by_label,
        shards.labels,
    )


def _with_extra(shards_folder: Path, part: Part, extra_folder: Path, extra: Part | None) -> Part:
    """The training part and its expanded shards as one, with whole paths."""
    files = [str(shards_folder / name) for name in part.files]
    if extra is None:
        return Part(tuple(files), part.num_images, part.by_label)
    files += [str(extra_folder / name) for name in extra.files]
    counts = {name: part.by_label.get(name, 0) + extra.by_label.get(name, 0) for name in part.by_label}
    return Part(tuple(files), part.num_images + extra.num_images, counts)


def _recipe(settings: TrainSettings, plan: Plan, num_train: int) -> Recipe:
    """What the settings leave open, decided by the number and size of pictures (never by the clock)."""
    optimizer = "adamw" if settings.optimizer == "auto" else settings.optimizer
    tiny = plan.height * plan.width <= 16 * 16  # a step costs the same for 32 of them as for 64
    few = 64 if tiny else 32
    batch_size = min(settings.batch_size or (few if num_train < 4000 else 128), num_train)
    epochs = settings.epochs or int(np.clip(round((25_000 if tiny else 60_000) / num_train), 12, 60))
    default_rate, default_decay = {"sgd": (0.1, 5e-4), "adam": (1e-3, 0.0), "adamw": (2e-3, 0.05)}[optimizer]
    return Recipe(
        optimizer,
        epochs,
        batch_size,
        settings.learning_rate or default_rate,
        settings.warmup,
        default_decay if settings.weight_decay < 0 else settings.weight_decay,
        settings.label_smoothing,
        1.0 - 1.0 / max(1.0, settings.average * epochs * max(1, num_train // batch_size)),
        settings.patience or max(5, epochs // 2),
    )


def _network(
    plan: Plan,
    model: ModelSettings,
    statistics: architectures.Statistics,
    recipe: Recipe,
    seed: int,
    *,
    fused: bool,
) -> Any:
    import keras

    keras.utils.set_random_seed(seed)
    network = architectures.build(plan, model, statistics, fused=fused)
    network.compile(
        optimizer=_optimizer(recipe),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=False,
    )
    network.optimizer.build(network.trainable_variables)
    return network


def _optimizer(recipe: Recipe) -> Any:
    import keras

    average = {"use_ema": True, "ema_momentum": recipe.average} if recipe.average else {}
    decay = recipe.weight_decay or None
    if recipe.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=decay, **average
        )
    else:
        kind = keras.optimizers.Adam if recipe.optimizer == "adam" else keras.optimizers.AdamW
        optimizer = kind(recipe.learning_rate, weight_decay=decay, **average)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _run(loop: Loop, source: feed.Feed) -> None:
    """Finish a half-done epoch, then all the others."""
    steps = source.steps
    while not loop.is_done():
        epoch, done = divmod(loop.state.step, steps)
        last = epoch + 1 if done else loop.state.epochs
        loop.network.fit(
            source.batches(loop.state.step, last * steps),
            initial_epoch=epoch,
            epochs=last,
            steps_per_epoch=steps - done if done else steps,
            callbacks=[loop.callback()],
            shuffle=False,
            verbose=0,
        )


def _finish(
    loop: Loop,
    plan: Plan,
    model: ModelSettings,
    statistics: architectures.Statistics,
    shards: Shards,
    policy: str,
    seed: int,
    out: Path,
) -> Training:
    with precision.policy("float32"):
        network = architectures.build(plan, model, statistics, fused=False)
    network.set_weights(loop.checkpoint.load_best(loop.state.best_epoch))
    keras_file.save(network, out / MODEL)
    training = Training(
        architecture=plan.architecture,
        why=plan.why,
        labels=shards.labels,
        height=plan.height,
        width=plan.width,
        channels=plan.channels,
        num_parameters=network.count_params(),
        epochs=len(loop.state.history),
        best_epoch=loop.state.best_epoch,
        history=loop.state.history,
        precision=policy,
        seed=seed,
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
    recipe: Recipe,
    policy: str,
) -> str:
    """Of all that decides the weights; how long to train at most and how often to save do not."""
    settings = replace(settings, max_minutes=1.0, checkpoint_s=0.0)
    parts = [records.to_dict(part) for part in (augmentation, plan, model, settings, recipe)]
    return digest.of_data([shards.fingerprint, policy, *parts])
