"""How a network is trained: what the settings ask for, and what is decided by the data where they do not.

Nothing here depends on the clock: how long training takes follows from the number of images, so equal
data and settings give equal weights on a fast machine and on a slow one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pergola.components import records
from pergola.components.training import muon, precision

_DEFAULTS = {  # learning rate, weight decay
    "muon": (muon.RATE, 0.0),
    "sgd": (0.1, 5e-4),
    "adam": (1e-3, 0.0),
    "adamw": (2e-3, 0.05),
}
LARGE = 64  # pixels of the shorter side from which on images are worth more passes
HEAD = 20_000  # images after which a head alone learns little more


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained. 0 and auto mean: by the data."""

    seed: int = records.setting(0, "of weights, order and variation: equal seeds, equal runs", low=0)
    epochs: int = records.setting(0, "passes over the training images; 0: by their number", low=0)
    batch_size: int = records.setting(0, "images a step; 0: by their number", low=0, high=8192)
    optimizer: str = records.setting(
        "auto", "how weights move", choices=("auto", "muon", "adam", "adamw", "sgd")
    )
    learning_rate: float = records.setting(
        0.0, "the highest, after warm-up; 0: by the optimiser", low=0.0, high=10.0
    )
    warmup: float = records.setting(0.15, "share of the steps in which the rate rises", low=0.0, high=0.9)
    schedule: str = records.setting(
        "cosine", "how the rate goes on after warm-up", choices=("cosine", "constant")
    )
    weight_decay: float = records.setting(-1.0, "pull of weights to zero; -1: by the optimiser", low=-1.0)
    label_smoothing: float = records.setting(0.1, "share of a label spread over all", low=0.0, high=0.5)
    average: float = records.setting(
        0.03, "share of training over which weights are averaged; 0: take them as they are", low=0.0, high=0.5
    )
    patience: int = records.setting(0, "end after so many epochs without a better one; 0: half of all", low=0)
    balance: str = records.setting(
        "auto",
        "on: weigh rare classes more; auto: if one is 1.5 times another; sample: draw all equally often",
        choices=("auto", "on", "sample", "off"),
    )
    focal: float = records.setting(
        0.0, "how much less an image counts the surer the network is of it (focal loss's gamma)", low=0.0,
        high=5.0,
    )  # fmt: skip
    unfreeze: tuple[float, ...] = records.setting(
        (0.3,), "pretrained: after the head alone, train these last shares of the layers too, one by one",
        low=0.0, high=1.0,
    )  # fmt: skip
    unfreeze_rate: float = records.setting(
        0.1, "pretrained: learning rate from then on, as a share of the head's", low=0.0, high=1.0
    )
    precision: str = records.setting(
        precision.AUTO, "numbers to compute in; auto: bfloat16 where it is fast", choices=precision.CHOICES
    )
    xla: bool = records.setting(
        False, "compile steps with XLA, on one device: about half as fast on CPUs, to be tried on a GPU"
    )
    max_minutes: float = records.setting(
        60.0, "end after the epoch in which so many minutes of training are over", low=0.01
    )
    memory_mb: int = records.setting(1500, "decode images once if they fit in so many megabytes", low=0)
    checkpoint_s: float = records.setting(30.0, "seconds of training that a kill may cost at most", low=0.0)


@dataclass(frozen=True)
class Stage:
    """Epochs in which the same layers are trained."""

    epochs: int
    learning_rate: float  # the highest
    share: float  # of a pretrained network's layers, from its end, that are trained besides the head


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train, decided before the first step."""

    optimizer: str
    stages: tuple[Stage, ...]
    is_pretrained: bool
    batch_size: int
    warmup: float  # share of a stage's steps in which the rate rises
    schedule: str  # after warm-up: "cosine", half of one down to nothing, or "constant"
    weight_decay: float
    label_smoothing: float
    average: float  # momentum of the weights' moving average; 0: none
    patience: int  # epochs without a better one after which training ends
    focal: float  # gamma of the focal loss; 0: cross-entropy

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> tuple[Stage, int]:
        """The stage that an epoch (0-based) is in, and the stage's first epoch."""
        first = 0
        for stage in self.stages:
            if epoch < first + stage.epochs:
                return stage, first
            first += stage.epochs
        return self.stages[-1], first - self.stages[-1].epochs


def decide(
    settings: TrainSettings, *, side: int, num_train: int, is_pretrained: bool, optimizer: str = "adamw"
) -> Recipe:
    """The recipe for so many images whose shorter side has `side` pixels.

    optimizer: what "auto" stands for.
    """
    optimizer = optimizer if settings.optimizer == "auto" else settings.optimizer
    batch_size = min(settings.batch_size or _batch_size(optimizer, num_train), num_train)
    epochs = settings.epochs or _epochs(side, num_train, is_pretrained)
    default_rate, default_decay = _DEFAULTS[optimizer]
    rate = settings.learning_rate or default_rate
    steps = epochs * max(1, num_train // batch_size)
    return Recipe(
        optimizer,
        _stages(settings, epochs, rate, num_train) if is_pretrained else (Stage(epochs, rate, 1.0),),
        is_pretrained,
        batch_size,
        settings.warmup,
        settings.schedule,
        default_decay if settings.weight_decay < 0 else settings.weight_decay,
        settings.label_smoothing,
        1.0 - 1.0 / max(1.0, settings.average * steps),
        settings.patience or max(5, epochs // 2),
        settings.focal,
    )


def rate(recipe: Recipe, step: int, steps_an_epoch: int) -> float:
    """Learning rate at a step, counted from the start: in each stage a rise, then half a cosine."""
    stage, first = recipe.stage_at(step // steps_an_epoch)
    step, num_steps = step - first * steps_an_epoch, stage.epochs * steps_an_epoch
    rise = round(recipe.warmup * num_steps)
    if step < rise:
        return stage.learning_rate * (step + 1) / rise
    if recipe.schedule == "constant":
        return stage.learning_rate
    done = min(1.0, (step - rise) / max(1, num_steps - rise))
    return stage.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _batch_size(optimizer: str, num_train: int) -> int:
    """Muon's steps are few and long: about 80 an epoch, of 64 to 512 images."""
    if optimizer != "muon":
        return 32 if num_train < 4000 else 128
    return min(512, max(64, 2 ** round(math.log2(num_train / 80))))


def _epochs(side: int, num_train: int, is_pretrained: bool) -> int:
    """Few images need more passes; so do large ones, of which there is more to learn."""
    images_seen, least, most = (
        (10_000, 5, 20) if is_pretrained else (60_000, 8, 60) if side >= LARGE else (30_000, 8, 60)
    )
    return min(most, max(least, round(images_seen / num_train)))


def _stages(settings: TrainSettings, epochs: int, rate: float, num_train: int) -> tuple[Stage, ...]:
    """The head alone for four tenths of the epochs or for HEAD images, then more and more of the rest."""
    shares = settings.unfreeze
    head = epochs if not shares else max(1, min(round(0.4 * epochs), math.ceil(HEAD / num_train)))
    each = max(1, (epochs - head) // max(1, len(shares)))
    later = tuple(Stage(each, rate * settings.unfreeze_rate, share) for share in shares)
    return (Stage(head, rate, 0.0), *later)
