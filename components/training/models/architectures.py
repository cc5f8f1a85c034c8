"""Which network is trained: one of the named architectures, or `auto`, which chooses one and says why.

A network takes images as float32 (N, H, W, C) from 0 to 255, scales them itself, and returns logits
float32 (N, classes). The layer "logits" is its last; the input of that layer is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pergola.components.artifacts.data import TRAIN, Shards
from pergola.components.errors import InputError
from pergola.components.imaging import pretrained
from pergola.components.imaging.pretrained import AUTO, FAMILIES, architecture_of, check_weights
from pergola.components.training.models import layers
from pergola.components.training.models.baselines import BASELINES, baseline_features
from pergola.components.training.models.convnet import conv
from pergola.components.training.models.resnet import PATCH, WHITEN, resnet_fast, whitening
from pergola.components.training.models.settings import CONV, RESNET_FAST
from pergola.components.training.models.settings import ModelSettings as ModelSettings
from pergola.components.training.models.statistics import Statistics

if TYPE_CHECKING:
    import keras

LOGITS = "logits"
SMALL = 20  # pixels of the shorter side below which few channels are enough
LARGEST_AUTO_SIDE = 128  # pixels: enough to tell leaves apart, and a ninth of the work of 384
LARGEST_PRETRAINED_SIDE = 224  # at which the weights were trained


@dataclass(frozen=True)
class Plan:
    """The chosen network."""

    architecture: str
    why: str  # one sentence
    height: int
    width: int
    channels: int
    num_classes: int
    stem: int  # channels of the first layer, in architectures with a choice


def choose(settings: ModelSettings, shards: Shards) -> Plan:
    """The network for these images, and why. Raises InputError for weights that do not exist."""
    name, why = _choose_architecture(settings, shards)
    height, width = _input_size(settings, shards, name)
    stem = settings.width or (64 if SMALL <= min(height, width) <= 48 else 32)
    return Plan(name, why, height, width, shards.channels, len(shards.labels), stem)


def build(plan: Plan, settings: ModelSettings, statistics: Statistics, *, fused: bool) -> keras.Model:
    """The network, under the current dtype policy.

    fused: True for training: with the layers of components/training/models/layers.py, and with pretrained
    weights loaded. False for a network to be saved.
    """
    import keras

    inputs = keras.Input((plan.height, plan.width, plan.channels), dtype="float32", name="image")
    features = _features(inputs, plan, settings, statistics, fused)
    if plan.num_classes == 2 and plan.architecture == CONV:
        # One sigmoid unit z is a softmax over (0, z). Written so, two classes need no special treatment.
        unit = keras.layers.Dense(1, dtype="float32", name=LOGITS)(features)
        return keras.Model(inputs, keras.ops.pad(unit, [[0, 0], [1, 0]]), name=plan.architecture)
    logits = keras.layers.Dense(plan.num_classes, dtype="float32", name=LOGITS)(features)
    network = keras.Model(inputs, logits, name=plan.architecture)
    if plan.architecture == RESNET_FAST and statistics.patches:
        _whiten(network, settings.scaling, statistics)
    return layers.fused(network) if fused and plan.architecture in FAMILIES else network


def is_pretrained(settings: ModelSettings, plan: Plan) -> bool:
    """Whether training starts from pretrained weights."""
    return bool(settings.weights) and plan.architecture in FAMILIES


def optimizer(plan: Plan) -> str:
    """The default optimiser of an architecture that is trained from scratch."""
    return "muon" if plan.architecture == RESNET_FAST else "adamw"


def is_depthwise(plan: Plan) -> bool:
    """Whether most of the network's convolutions are depthwise."""
    return plan.architecture in FAMILIES and FAMILIES[plan.architecture].depthwise


def _choose_architecture(settings: ModelSettings, shards: Shards) -> tuple[str, str]:
    check_weights(settings.weights, settings.architecture)
    if settings.architecture != AUTO:
        return settings.architecture, "set by model.architecture"
    images = f"{shards.splits[TRAIN].num_images} images in {len(shards.labels)} classes"
    if settings.weights:
        found = architecture_of(settings.weights)
        if found is None:
            raise InputError(
                f"model.weights: the architecture of {settings.weights} is not known. "
                "Name it with model.architecture."
            )
        return found, f"{images}, and pretrained weights of {found}"
    size = f"{shards.median_height}x{shards.median_width}"
    return RESNET_FAST, (
        f"{images} of about {size} pixels and no pretrained weights: a small residual network trains "
        "fastest from scratch"
    )


def _features(inputs: Any, plan: Plan, settings: ModelSettings, statistics: Statistics, fused: bool) -> Any:
    """The input of the last layer, (N, D)."""
    import keras

    name = plan.architecture
    if name in FAMILIES:
        x = pretrained.features(name, inputs, settings.weights if fused else "")
        return keras.layers.Dropout(settings.dropout)(x) if settings.dropout else x
    scaled = _scale(inputs, settings.scaling, statistics)
    if name in BASELINES:
        return baseline_features(name, scaled, fused)
    if name == CONV:
        return conv(scaled, settings, fused)
    return resnet_fast(scaled, width=plan.stem, dropout=settings.dropout, fused=fused)


def _scale(inputs: Any, scaling: str, statistics: Statistics) -> Any:
    import keras

    channels = inputs.shape[-1]
    mean = statistics.mean if scaling in ("mean", "zscore") else (0.0,) * channels
    variance = [deviation**2 for deviation in _deviation(scaling, statistics)]
    scale = keras.layers.Normalization(mean=list(mean), variance=variance, dtype="float32", name="scale")
    return scale(inputs)


def _deviation(scaling: str, statistics: Statistics) -> tuple[float, ...]:
    """What the pixels of each channel are divided by."""
    return statistics.deviation if scaling == "zscore" else (255.0,) * len(statistics.deviation)


def _whiten(network: keras.Model, scaling: str, statistics: Statistics) -> None:
    """Set resnet_fast's whitening filters for these images; with large images it has none."""
    import numpy as np

    if WHITEN not in [layer.name for layer in network.layers]:
        return
    deviations = np.tile(_deviation(scaling, statistics), PATCH**2)
    covariance = np.array(statistics.patches) / np.outer(deviations, deviations)
    network.get_layer(WHITEN).set_weights([whitening(covariance, len(statistics.mean))])


def _input_size(settings: ModelSettings, shards: Shards, name: str) -> tuple[int, int]:
    least = FAMILIES[name].least_side if name in FAMILIES else 1
    if settings.image_size:
        if settings.image_size < least:
            raise InputError(
                f"model.image_size: {name} needs at least {least} pixels, got {settings.image_size}."
            )
        return settings.image_size, settings.image_size
    largest = LARGEST_PRETRAINED_SIDE if name in FAMILIES else LARGEST_AUTO_SIDE
    height, width = max(1, shards.median_height), max(1, shards.median_width)
    shrink = min(1.0, (largest**2 / (height * width)) ** 0.5)
    return max(least, _round(height * shrink)), max(least, _round(width * shrink))


def _round(side: float) -> int:
    """The nearest multiple of 8 from 32 pixels on, because networks halve their input several times."""
    return max(4, round(side)) if side < 32 else 8 * round(side / 8)
