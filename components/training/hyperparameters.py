"""The hyperparameters of a training: from the settings, and from the data where a setting is left open.

Nothing here depends on the clock: the length of training follows from the number of images, so the same
data and settings give the same weights on a fast machine and on a slow one.
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
LARGE = 64  # pixels of the shorter side from which on images get more epochs
HEAD_IMAGES = 20_000  # after which training the head alone improves little


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained. 0 and auto: chosen from the data."""

    seed: int = records.setting(
        0, "of initial weights, shuffling and augmentation: the same seed gives the same run", low=0
    )
    epochs: int = records.setting(0, "passes over the training images; 0: from their number", low=0)
    batch_size: int = records.setting(0, "images per step; 0: from their number", low=0, high=8192)
    optimizer: str = records.setting(
        "auto", "optimiser; auto: by the architecture", choices=("auto", "muon", "adam", "adamw", "sgd")
    )
    learning_rate: float = records.setting(
        0.0, "peak learning rate, after warm-up; 0: by the optimiser", low=0.0, high=10.0
    )
    warmup: float = records.setting(
        0.15, "share of the steps in which the learning rate rises", low=0.0, high=0.9
    )
    schedule: str = records.setting("cosine", "learning rate after warm-up", choices=("cosine", "constant"))
    weight_decay: float = records.setting(-1.0, "weight decay; -1: by the optimiser", low=-1.0)
    label_smoothing: float = records.setting(
        0.1, "label smoothing: share of the target that is spread over all classes", low=0.0, high=0.5
    )
    average: float = records.setting(
        0.03, "share of training over which weights are averaged (EMA); 0: no averaging", low=0.0, high=0.5
    )
    patience: int = records.setting(0, "early stopping: epochs without improvement; 0: half of all", low=0)
    balance: str = records.setting(
        "auto",
        "on: weight rare classes more; auto: if one is 1.5 times another; sample: draw all equally often",
        choices=("auto", "on", "sample", "off"),
    )
    focal: float = records.setting(
        0.0, "focal loss's gamma: how much less easy images count; 0: cross-entropy", low=0.0,
        high=5.0,
    )  # fmt: skip
    unfreeze: tuple[float, ...] = records.setting(
        (0.3,), "pretrained: after the head alone, shares of the layers to train too, from the end",
        low=0.0, high=1.0,
    )  # fmt: skip
    unfreeze_rate: float = records.setting(
        0.1, "pretrained: learning rate after the head alone, as a share of the head's", low=0.0, high=1.0
    )
    precision: str = records.setting(
        precision.AUTO, "dtype policy; auto: bfloat16 where it is fast", choices=precision.CHOICES
    )
    xla: bool = records.setting(
        False, "compile steps with XLA, on one device: about half as fast on CPUs, try it on a GPU"
    )
    max_minutes: float = records.setting(
        60.0, "stop after the epoch in which training time exceeds this", low=0.01
    )
    memory_mb: int = records.setting(
        1500, "keep decoded images in memory if they need at most this many megabytes", low=0
    )
    checkpoint_s: float = records.setting(30.0, "seconds between checkpoints", low=0.0)


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs in which the same layers are trained."""

    epochs: int
    learning_rate: float  # peak
    share: float  # of a pretrained network's layers, from the end, that are trained besides the head


@dataclass(frozen=True)
class Hyperparameters:
    """All choices of a training, made before its first step."""

    optimizer: str
    stages: tuple[Stage, ...]
    is_pretrained: bool
    batch_size: int
    warmup: float  # share of a stage's steps in which the learning rate rises
    schedule: str  # after warm-up: "cosine", decay to 0, or "constant"
    weight_decay: float
    label_smoothing: float
    average: float  # momentum of the weights' exponential moving average; 0: none
    patience: int  # epochs without improvement after which training stops
    focal: float  # gamma of the focal loss; 0: cross-entropy

    @property
    def epochs(self) -> int:
        """The number of epochs in all stages."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> tuple[Stage, int]:
        """The stage that an epoch (0-based) belongs to, and the first epoch of that stage."""
        first = 0
        for stage in self.stages:
            if epoch < first + stage.epochs:
                return stage, first
            first += stage.epochs
        return self.stages[-1], first - self.stages[-1].epochs


def decide(
    settings: TrainSettings, *, side: int, num_train: int, is_pretrained: bool, optimizer: str = "adamw"
) -> Hyperparameters:
    """The hyperparameters for `num_train` images with a shorter side of `side` pixels.

    optimizer: the one that "auto" means.
    """
    optimizer = optimizer if settings.optimizer == "auto" else settings.optimizer
    batch_size = min(settings.batch_size or _batch_size(optimizer, num_train), num_train)
    epochs = settings.epochs or _epochs(side, num_train, is_pretrained)
    default_rate, default_decay = _DEFAULTS[optimizer]
    rate = settings.learning_rate or default_rate
    steps = epochs * max(1, num_train // batch_size)
    return Hyperparameters(
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


def learning_rate_at(hyperparameters: Hyperparameters, step: int, steps_per_epoch: int) -> float:
    """The learning rate at a step (0-based, over all epochs): warm-up, then the schedule, in each stage."""
    stage, first = hyperparameters.stage_at(step // steps_per_epoch)
    step, num_steps = step - first * steps_per_epoch, stage.epochs * steps_per_epoch
    warmup = round(hyperparameters.warmup * num_steps)
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    if hyperparameters.schedule == "constant":
        return stage.learning_rate
    done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return stage.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def _batch_size(optimizer: str, num_train: int) -> int:
    """Muon takes few large steps: about 80 per epoch, of 64 to 512 images."""
    if optimizer != "muon":
        return 32 if num_train < 4000 else 128
    return min(512, max(64, 2 ** round(math.log2(num_train / 80))))


def _epochs(side: int, num_train: int, is_pretrained: bool) -> int:
    """More for few images, and for large ones, which hold more detail."""
    images_seen, least, most = (
        (10_000, 5, 20) if is_pretrained else (60_000, 8, 60) if side >= LARGE else (30_000, 8, 60)
    )
    return min(most, max(least, round(images_seen / num_train)))


def _stages(settings: TrainSettings, epochs: int, rate: float, num_train: int) -> tuple[Stage, ...]:
    """The head alone for 40 % of the epochs or for HEAD_IMAGES, then more and more of the other layers."""
    shares = settings.unfreeze
    head = epochs if not shares else max(1, min(round(0.4 * epochs), math.ceil(HEAD_IMAGES / num_train)))
    each = max(1, (epochs - head) // max(1, len(shares)))
    later = tuple(Stage(each, rate * settings.unfreeze_rate, share) for share in shares)
    return (Stage(head, rate, 0.0), *later)
