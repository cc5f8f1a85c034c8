"""Which network is trained: named architectures, and `auto`, which picks one and says why.

A network takes pictures as float32 (N, H, W, C) from 0 to 255, scales them itself, and gives logits
float32 (N, classes). The layer "logits" is its last; what goes into it is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import records
from components.artifacts import Shards
from components.data.images import ASPECTS

if TYPE_CHECKING:
    import keras
    import numpy as np

AUTO = "auto"
RESNET_FAST = "resnet_fast"
NAMES = (AUTO, RESNET_FAST)

LOGITS = "logits"
LARGEST_AUTO_SIDE = 128  # pixels: enough to tell leaves apart, and a ninth of the work of 384


@dataclass(frozen=True)
class ModelSettings:
    """The network: its architecture, its input, where its weights come from."""

    architecture: str = records.setting(AUTO, "which network; auto picks one and says why", choices=NAMES)
    image_size: int = records.setting(
        0, "side of the network's square input in pixels; 0: by the pictures", low=0, high=1024
    )
    aspect: str = records.setting(
        "stretch", "how a picture of another aspect is brought to the input's", choices=ASPECTS
    )
    weights: str = records.setting("", "file of pretrained weights (.h5, .weights.h5); empty: none")
    scaling: str = records.setting(
        "zscore",
        "how grey levels are scaled: to 0-1, less their mean, or by mean and deviation",
        choices=("unit", "mean", "zscore"),
    )
    width: int = records.setting(0, "channels of resnet_fast's stem; 0: by the pictures", low=0, high=512)
    dropout: float = records.setting(
        0.2, "share of features dropped before the last layer", low=0.0, high=0.9
    )


@dataclass(frozen=True)
class Plan:
    """A decided network."""

    architecture: str
    why: str  # one sentence
    height: int
    width: int
    channels: int
    num_classes: int
    stem: int  # channels of the first layer, where the architecture lets one choose


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of the training pixels a channel, 0 to 255."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def choose(settings: ModelSettings, shards: Shards) -> Plan:
    """The network for these pictures, and why."""
    height, width = _input_size(settings, shards)
    num_train = shards.parts["train"].num_images
    asked = settings.architecture != AUTO
    name = settings.architecture if asked else RESNET_FAST
    why = (
        "the settings ask for it"
        if asked
        else f"{num_train} pictures of {height}x{width} pixels and no pretrained weights: "
        "a small residual network learns fastest from scratch"
    )
    stem = settings.width or (64 if min(height, width) <= 48 else 32)
    return Plan(name, why, height, width, shards.channels, len(shards.labels), stem)


def build(plan: Plan, settings: ModelSettings, statistics: Statistics, *, fused: bool) -> keras.Model:
    """The network, not yet trained, under the dtype policy in force.

    fused: with layers that only train (see components/training/layers.py); False for one to be saved.
    """
    import keras

    from components.training.resnet import resnet_fast

    inputs = keras.Input((plan.height, plan.width, plan.channels), dtype="float32", name="image")
    scaled = _scale(inputs, settings.scaling, statistics)
    features = resnet_fast(scaled, width=plan.stem, dropout=settings.dropout, fused=fused)
    logits = keras.layers.Dense(plan.num_classes, dtype="float32", name=LOGITS)(features)
    return keras.Model(inputs, logits, name=plan.architecture)


def measure(images: np.ndarray) -> Statistics:
    """Mean and deviation a channel of uint8 (N, H, W, C)."""
    import numpy as np

    pixels = images.reshape(-1, images.shape[-1])
    mean = pixels.mean(0, dtype=np.float64)
    deviation = pixels.std(0, dtype=np.float64)
    return Statistics(tuple(map(float, mean)), tuple(float(max(d, 1.0)) for d in deviation))


def check_weights(settings: ModelSettings) -> None:
    """Raises InputError when the file of pretrained weights is not there."""
    from components.errors import InputError

    if settings.weights and not Path(settings.weights).is_file():
        raise InputError(f"model.weights: '{settings.weights}' is no file. Give the path of a .h5 file.")


def _scale(inputs: Any, scaling: str, statistics: Statistics) -> Any:
    import keras

    channels = inputs.shape[-1]
    mean = statistics.mean if scaling in ("mean", "zscore") else (0.0,) * channels
    spread = statistics.deviation if scaling == "zscore" else (255.0,) * channels
    variance = [s * s for s in spread]
    return keras.layers.Normalization(mean=list(mean), variance=variance, dtype="float32", name="scale")(
        inputs
    )


def _input_size(settings: ModelSettings, shards: Shards) -> tuple[int, int]:
    if settings.image_size:
        return settings.image_size, settings.image_size
    height, width = max(1, shards.median_height), max(1, shards.median_width)
    shrink = min(1.0, (LARGEST_AUTO_SIDE**2 / (height * width)) ** 0.5)
    return _round(height * shrink), _round(width * shrink)


def _round(side: float) -> int:
    """The nearest multiple of 8 from 32 pixels on: networks halve what they see several times."""
    return max(4, round(side)) if side < 32 else 8 * round(side / 8)
