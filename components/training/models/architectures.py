"""Which network is trained: named architectures, and `auto`, which picks one and says why.

A network takes images as float32 (N, H, W, C) from 0 to 255, scales them itself, and gives logits
float32 (N, classes). The layer "logits" is its last; what goes into it is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pergola.components import records
from pergola.components.artifacts.data import Shards
from pergola.components.errors import InputError
from pergola.components.imaging import pretrained
from pergola.components.imaging.decode import ASPECTS
from pergola.components.imaging.pretrained import AUTO, FAMILIES, architecture_of, check_weights
from pergola.components.training.models import layers
from pergola.components.training.models.baselines import LADDER
from pergola.components.training.models.convnet import ConvPlan, conv
from pergola.components.training.models.resnet import PATCH, WHITEN, resnet_fast, whitening

if TYPE_CHECKING:
    import keras
    import numpy as np

RESNET_FAST, CONV = "resnet_fast", "conv"
NAMES = (AUTO, RESNET_FAST, CONV, *LADDER, *FAMILIES)

LOGITS = "logits"
SMALL = 20  # pixels of the shorter side below which few channels do
LARGEST_AUTO_SIDE = 128  # pixels: enough to tell leaves apart, and a ninth of the work of 384
MEASURED = 1000  # images whose patches stand for all
SPREAD = 32  # patches a side of an image that are looked at, about
LARGEST_PRETRAINED_SIDE = 224  # what the weights were trained with


@dataclass(frozen=True)
class ModelSettings:
    """The network: its architecture, its input, where its weights come from."""

    architecture: str = records.setting(AUTO, "which network; auto picks one and says why", choices=NAMES)
    image_size: int = records.setting(
        0, "side of the network's square input in pixels; 0: by the images", low=0, high=1024
    )
    aspect: str = records.setting(
        "stretch", "how an image of another aspect is brought to the input's", choices=ASPECTS
    )
    weights: str = records.setting(
        "",
        "pretrained weights: a .h5 file without top, or imagenet (Keras's cache or download); empty: none",
        file=True,
    )
    scaling: str = records.setting(
        "zscore",
        "how grey levels are scaled: to 0-1, less their mean, or by mean and deviation",
        choices=("unit", "mean", "zscore"),
    )
    width: int = records.setting(0, "channels of resnet_fast's stem; 0: by the images", low=0, high=512)
    dropout: float = records.setting(
        0.2, "share of features dropped before the last layer", low=0.0, high=0.9
    )
    conv_blocks: int = records.setting(3, "conv: blocks, each of twice the filters", low=1, high=6)
    conv_filters: int = records.setting(32, "conv: filters of the first block", low=1, high=1024)
    conv_kernel: int = records.setting(3, "conv: side of the filters", low=1, high=15)
    conv_pool: str = records.setting(
        "max", "conv: pooling; global: once more, at the end", choices=("max", "average", "global")
    )
    conv_separable: bool = records.setting(False, "conv: depthwise separable convolutions")
    conv_residual: bool = records.setting(False, "conv: a shortcut around each block")
    conv_attention: bool = records.setting(False, "conv: weigh channels by the whole image")
    conv_normalize: bool = records.setting(True, "conv: batch normalisation")
    conv_dropout: float = records.setting(0.25, "conv: share dropped after each block", low=0.0, high=0.9)
    conv_dense: tuple[int, ...] = records.setting(
        (128,), "conv: widths of dense layers before the last", low=1, high=8192
    )
    conv_activation: str = records.setting(
        "relu", "conv: activation", choices=("relu", "gelu", "silu", "elu", "tanh", "leaky_relu")
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
    patches: tuple[tuple[float, ...], ...] = ()  # covariance of patches of 2 x 2 pixels; (): not measured


def choose(settings: ModelSettings, shards: Shards) -> Plan:
    """The network for these images, and why. Raises InputError for weights that are not there."""
    name, why = _choose_architecture(settings, shards)
    height, width = _input_size(settings, shards, name)
    stem = settings.width or (64 if SMALL <= min(height, width) <= 48 else 32)
    return Plan(name, why, height, width, shards.channels, len(shards.labels), stem)


def build(plan: Plan, settings: ModelSettings, statistics: Statistics, *, fused: bool) -> keras.Model:
    """The network under the dtype policy in force; pretrained weights are loaded where it is to train.

    fused: with layers that only train (see components/training/models/layers.py); False for one to be saved.
    """
    import keras

    inputs = keras.Input((plan.height, plan.width, plan.channels), dtype="float32", name="image")
    features = _features(inputs, plan, settings, statistics, fused)
    if plan.num_classes == 2 and plan.architecture == CONV:
        # One sigmoid unit z is a softmax over (0, z); saying it so, two classes are nothing special.
        unit = keras.layers.Dense(1, dtype="float32", name=LOGITS)(features)
        return keras.Model(inputs, keras.ops.pad(unit, [[0, 0], [1, 0]]), name=plan.architecture)
    logits = keras.layers.Dense(plan.num_classes, dtype="float32", name=LOGITS)(features)
    network = keras.Model(inputs, logits, name=plan.architecture)
    if plan.architecture == RESNET_FAST and statistics.patches:
        _whiten(network, settings.scaling, statistics)
    return layers.fused(network) if fused and plan.architecture in FAMILIES else network


def is_pretrained(settings: ModelSettings, plan: Plan) -> bool:
    """Whether training starts from weights that know images already."""
    return bool(settings.weights) and plan.architecture in FAMILIES


def optimizer(plan: Plan) -> str:
    """The optimiser that suits an architecture when it learns from scratch."""
    return "muon" if plan.architecture == RESNET_FAST else "adamw"


def is_depthwise(plan: Plan) -> bool:
    """Whether the network is mostly of depthwise convolutions."""
    return plan.architecture in FAMILIES and FAMILIES[plan.architecture].depthwise


def measure(images: np.ndarray) -> Statistics:
    """Mean and deviation a channel of uint8 (N, H, W, C), and the covariance of its patches."""
    import numpy as np

    levels = np.arange(256.0)
    shares = _histograms(images) / images[..., 0].size
    means = shares @ levels
    deviations = np.sqrt(np.maximum(shares @ levels**2 - means**2, 0.0))
    patches = _patches(images).tolist()
    return Statistics(
        tuple(map(float, means)),
        tuple(float(max(d, 1.0)) for d in deviations),
        tuple(tuple(map(float, row)) for row in patches),
    )


def _choose_architecture(settings: ModelSettings, shards: Shards) -> tuple[str, str]:
    asked = settings.architecture
    check_weights(settings.weights, asked)
    if asked != AUTO:
        return asked, "the settings ask for it"
    num_train = shards.parts["train"].num_images
    pictures = f"{num_train} images in {len(shards.labels)} classes"
    if settings.weights:
        found = architecture_of(settings.weights)
        if found is None:
            raise InputError(
                f"model.weights: {settings.weights} is of no known architecture. "
                "Name it with model.architecture."
            )
        return found, f"{pictures}, and weights of {found} at hand: they know images already"
    size = f"{shards.median_height}x{shards.median_width}"
    return RESNET_FAST, (
        f"{pictures} of about {size} pixels and no pretrained weights: a small residual network learns "
        "fastest from scratch"
    )


def _features(inputs: Any, plan: Plan, settings: ModelSettings, statistics: Statistics, fused: bool) -> Any:
    """What goes into the last layer, (N, D)."""
    import keras

    name = plan.architecture
    if name in FAMILIES:
        x = pretrained.features(name, inputs, settings.weights if fused else "")
        return keras.layers.Dropout(settings.dropout)(x) if settings.dropout else x
    scaled = _scale(inputs, settings.scaling, statistics)
    if name in LADDER:
        return LADDER[name](scaled, fused)
    if name == CONV:
        return conv(scaled, _conv_plan(settings), fused)
    return resnet_fast(scaled, width=plan.stem, dropout=settings.dropout, fused=fused)


def _conv_plan(settings: ModelSettings) -> ConvPlan:
    return ConvPlan(
        settings.conv_blocks,
        settings.conv_filters,
        settings.conv_kernel,
        settings.conv_pool,
        settings.conv_separable,
        settings.conv_residual,
        settings.conv_attention,
        settings.conv_normalize,
        settings.conv_dropout,
        settings.conv_dense,
        settings.conv_activation,
    )


def _whiten(network: keras.Model, scaling: str, statistics: Statistics) -> None:
    """Give resnet_fast the filters that decorrelate these images; one for large images has none."""
    import numpy as np

    if WHITEN not in [layer.name for layer in network.layers]:
        return
    channels = len(statistics.mean)
    spread = statistics.deviation if scaling == "zscore" else (255.0,) * channels
    spreads = np.tile(spread, PATCH**2)
    covariance = np.array(statistics.patches) / np.outer(spreads, spreads)
    network.get_layer(WHITEN).set_weights([whitening(covariance, channels)])


def _histograms(images: np.ndarray) -> np.ndarray:
    """How often each grey level occurs in each channel, int64 (C, 256)."""
    import numpy as np

    counts = np.zeros((images.shape[-1], 256), np.int64)
    for image in images:  # one by one: what is counted is an image's pixels as 64-bit numbers
        for channel, row in enumerate(counts):
            row += np.bincount(image[..., channel].ravel(), minlength=256)
    return counts


def _patches(images: np.ndarray) -> np.ndarray:
    """Covariance, float64 (4 * C, 4 * C), of patches of 2 x 2 pixels of some of the images."""
    import numpy as np

    some = images[:: -(-len(images) // MEASURED)]
    rows, columns = images.shape[1] - 1, images.shape[2] - 1  # in which a patch may begin
    apart = max(1, min(images.shape[1:3]) // SPREAD)
    corners = [some[:, y : y + rows : apart, x : x + columns : apart] for y in (0, 1) for x in (0, 1)]
    patches = np.concatenate(corners, axis=-1).reshape(-1, PATCH**2 * images.shape[-1]).astype(np.float32)
    patches -= patches.mean(0, dtype=np.float64).astype(np.float32)
    return (patches.T @ patches).astype(np.float64) / len(patches)


def _scale(inputs: Any, scaling: str, statistics: Statistics) -> Any:
    import keras

    channels = inputs.shape[-1]
    mean = statistics.mean if scaling in ("mean", "zscore") else (0.0,) * channels
    spread = statistics.deviation if scaling == "zscore" else (255.0,) * channels
    variance = [s * s for s in spread]
    return keras.layers.Normalization(mean=list(mean), variance=variance, dtype="float32", name="scale")(
        inputs
    )


def _input_size(settings: ModelSettings, shards: Shards, name: str) -> tuple[int, int]:
    least = FAMILIES[name].least_side if name in FAMILIES else 1
    if settings.image_size:
        if settings.image_size < least:
            raise InputError(f"model.image_size: {name} needs at least {least}, got {settings.image_size}.")
        return settings.image_size, settings.image_size
    largest = LARGEST_PRETRAINED_SIDE if name in FAMILIES else LARGEST_AUTO_SIDE
    height, width = max(1, shards.median_height), max(1, shards.median_width)
    shrink = min(1.0, (largest**2 / (height * width)) ** 0.5)
    return max(least, _round(height * shrink)), max(least, _round(width * shrink))


def _round(side: float) -> int:
    """The nearest multiple of 8 from 32 pixels on: networks halve what they see several times."""
    return max(4, round(side)) if side < 32 else 8 * round(side / 8)
