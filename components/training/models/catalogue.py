"""Every named architecture with its own input size, its number of parameters and its FLOPs.

The counts are constants, so listing them needs no TensorFlow. Tests hold them against the built networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pergola.components.imaging.pretrained import AUTO, FAMILIES
from pergola.components.training.models import settings
from pergola.components.training.models.baselines import BASELINES
from pergola.components.training.models.flops import PER_WEIGHT
from pergola.components.training.models.settings import CONV, RESNET_FAST

NAMES = tuple(name for name in settings.NAMES if name != AUTO)

_SIDES = {RESNET_FAST: 32, CONV: 32, "inception_v3": 299, "xception": 299}


@dataclass(frozen=True)
class Counts:
    """Of a network at its own input size, without its last layer."""

    num_parameters: int
    flops: int
    num_features: int  # inputs of the last layer


@dataclass(frozen=True)
class Architecture:
    """One architecture at its own input size."""

    name: str
    height: int  # pixels
    width: int
    channels: int
    num_parameters: int  # with the last layer
    flops: int  # of one forward pass for one image, see components/training/models/flops.py
    about: str
    takes_weights: bool  # whether pretrained weights can be loaded


COUNTS = {
    "resnet_fast": Counts(1_972_512, 236_289_600, 512),
    "conv": Counts(550_624, 77_791_232, 128),
    "mlp": Counts(312_350, 624_400, 50),
    "cnn1": Counts(3_282_846, 8_333_072, 50),
    "cnn2": Counts(6_578_142, 52_635_408, 50),
    "cnn_pool": Counts(434_142, 12_035_856, 50),
    "cnn_dropout": Counts(434_142, 12_035_856, 50),
    "cnn_batchnorm": Counts(434_526, 12_035_856, 50),
    "dense": Counts(282_600, 564_480, 360),
    "fashion_cnn": Counts(1_413_184, 178_931_712, 64),
    "minimal_cnn": Counts(18_816, 4_849_920, 1_600),
    "dropout_cnn": Counts(18_816, 4_849_920, 1_600),
    "batchnorm_cnn": Counts(66_336, 195_821_568, 16_384),
    "vgg16": Counts(14_714_688, 30_693_261_312, 512),
    "inception_v3": Counts(21_802_784, 11_422_336_192, 2_048),
    "xception": Counts(20_861_480, 16_710_710_992, 2_048),
    "resnet50": Counts(23_587_712, 7_711_850_496, 2_048),
    "mobilenet_v2": Counts(2_257_984, 598_988_544, 1_280),
    "mobilenet_025": Counts(218_544, 81_548_544, 256),
    "efficientnet_v2b0": Counts(5_919_312, 1_433_612_352, 1_280),
    "convnext_tiny": Counts(27_820_128, 8_909_526_528, 768),
}


def catalogue(names: Sequence[str] = NAMES, *, num_classes: int = 10) -> tuple[Architecture, ...]:
    """The architectures with a last layer for so many classes."""
    return tuple(_entry(name, num_classes) for name in names)


def own_input(name: str) -> tuple[int, int, int]:
    """Height, width and channels of the images for which an architecture was designed."""
    if name in BASELINES:
        baseline = BASELINES[name]
        return baseline.side, baseline.side, baseline.channels
    side = _SIDES.get(name, 224)
    return side, side, 3


def _entry(name: str, num_classes: int) -> Architecture:
    counts = COUNTS[name]
    units = 1 if name == CONV and num_classes == 2 else num_classes  # see architectures.build
    num_parameters = counts.num_parameters + (counts.num_features + 1) * units
    flops = counts.flops + PER_WEIGHT * counts.num_features * units
    return Architecture(
        name, *own_input(name), num_parameters, flops, about=_about(name), takes_weights=name in FAMILIES
    )


def _about(name: str) -> str:
    if name in FAMILIES:
        return f"{FAMILIES[name].constructor} of keras.applications, with or without pretrained weights."
    if name == RESNET_FAST:
        return "Our own residual network, designed for time to accuracy."
    if name == CONV:
        return "A convolutional network of your own design: model.conv_… (here with the defaults)."
    return BASELINES[name].about
