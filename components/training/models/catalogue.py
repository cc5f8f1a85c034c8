"""Every named architecture with its own input, its parameters and what it costs to run.

Figures are kept here, so that a list of them needs no TensorFlow; its tests count them anew in networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pergola.components.imaging.pretrained import AUTO, FAMILIES
from pergola.components.training.models import architectures
from pergola.components.training.models.architectures import CONV, RESNET_FAST
from pergola.components.training.models.baselines import LADDER
from pergola.components.training.models.flops import PER_WEIGHT

NAMES = tuple(name for name in architectures.NAMES if name != AUTO)

_GREY = ("dense", "fashion_cnn", "minimal_cnn", "dropout_cnn")  # Fashion-MNIST and MNIST
_SIDES = {"batchnorm_cnn": 64, "inception_v3": 299, "xception": 299}


@dataclass(frozen=True)
class Counted:
    """A network at its own input, without its last layer."""

    num_parameters: int
    flops: int
    num_features: int  # inputs of the last layer


@dataclass(frozen=True)
class Entry:
    """One architecture at its own input."""

    name: str
    height: int  # pixels
    width: int
    channels: int
    num_parameters: int  # with the last layer
    flops: int  # of one forward pass for one image, see components/training/models/flops.py
    about: str
    takes_weights: bool  # pretrained ones


COUNTED = {
    "resnet_fast": Counted(1_972_512, 236_289_600, 512),
    "conv": Counted(550_624, 77_791_232, 128),
    "mlp": Counted(312_350, 624_400, 50),
    "cnn1": Counted(3_282_846, 8_333_072, 50),
    "cnn2": Counted(6_578_142, 52_635_408, 50),
    "cnn_pool": Counted(434_142, 12_035_856, 50),
    "cnn_dropout": Counted(434_142, 12_035_856, 50),
    "cnn_batchnorm": Counted(434_526, 12_035_856, 50),
    "dense": Counted(282_600, 564_480, 360),
    "fashion_cnn": Counted(1_413_184, 178_931_712, 64),
    "minimal_cnn": Counted(18_816, 4_849_920, 1_600),
    "dropout_cnn": Counted(18_816, 4_849_920, 1_600),
    "batchnorm_cnn": Counted(66_336, 195_821_568, 16_384),
    "vgg16": Counted(14_714_688, 30_693_261_312, 512),
    "inception_v3": Counted(21_802_784, 11_422_336_192, 2_048),
    "xception": Counted(20_861_480, 16_710_710_992, 2_048),
    "resnet50": Counted(23_587_712, 7_711_850_496, 2_048),
    "mobilenet_v2": Counted(2_257_984, 598_988_544, 1_280),
    "mobilenet_025": Counted(218_544, 81_548_544, 256),
    "efficientnet_v2b0": Counted(5_919_312, 1_433_612_352, 1_280),
    "convnext_tiny": Counted(27_820_128, 8_909_526_528, 768),
}


def catalogue(names: Sequence[str] = NAMES, *, num_classes: int = 10) -> tuple[Entry, ...]:
    """What each architecture is and costs when it tells so many classes apart."""
    return tuple(_entry(name, num_classes) for name in names)


def own_input(name: str) -> tuple[int, int, int]:
    """Height, width and channels for which an architecture was made."""
    if name in _GREY:
        return 28, 28, 1
    side = _SIDES.get(name, 224 if name in FAMILIES else 32)
    return side, side, 3


def _entry(name: str, num_classes: int) -> Entry:
    counted = COUNTED[name]
    units = 1 if name == CONV and num_classes == 2 else num_classes  # see architectures.build
    num_parameters = counted.num_parameters + (counted.num_features + 1) * units
    flops = counted.flops + PER_WEIGHT * counted.num_features * units
    return Entry(
        name, *own_input(name), num_parameters, flops, about=_about(name), takes_weights=name in FAMILIES
    )


def _about(name: str) -> str:
    if name in FAMILIES:
        return f"{FAMILIES[name].constructor} of keras.applications, pretrained weights or none"
    if name == RESNET_FAST:
        return "Our own residual network, made for time to accuracy."
    if name == CONV:
        return "A convolutional network to one's own plan: model.conv_… (here by the defaults)."
    return (LADDER[name].__doc__ or "").strip().splitlines()[0]
