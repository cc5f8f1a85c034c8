"""Every named architecture with its own input, its parameters and what it costs to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.progress import Progress, silent
from components.training import architectures
from components.training.architectures import AUTO, CONV, RESNET_FAST, ModelSettings, Plan, Statistics
from components.training.flops import flops
from components.training.ladder import LADDER
from components.training.pretrained import FAMILIES

NAMES = tuple(name for name in architectures.NAMES if name != AUTO)

_GREY = ("dense", "fashion_cnn", "minimal_cnn", "dropout_cnn")  # Fashion-MNIST and MNIST
_SIDES = {"batchnorm_cnn": 64, "inception_v3": 299, "xception": 299}


@dataclass(frozen=True)
class Entry:
    """One architecture at its own input."""

    name: str
    height: int  # pixels
    width: int
    channels: int
    num_parameters: int  # with the last layer
    flops: int  # of one forward pass for one picture, see components/training/flops.py
    about: str
    takes_weights: bool  # pretrained ones


def catalogue(
    names: Sequence[str] = NAMES, *, num_classes: int = 10, progress: Progress = silent
) -> tuple[Entry, ...]:
    """Build each network with random weights and count. Takes seconds: the pretrained families are large."""
    entries = []
    with progress(total=len(names), desc="build", unit="network") as bar:
        for name in names:
            entries.append(_entry(name, num_classes))
            bar.update()
    return tuple(entries)


def own_input(name: str) -> tuple[int, int, int]:
    """Height, width and channels for which an architecture was made."""
    if name in _GREY:
        return 28, 28, 1
    side = _SIDES.get(name, 224 if name in FAMILIES else 32)
    return side, side, 3


def _entry(name: str, num_classes: int) -> Entry:
    import keras

    height, width, channels = own_input(name)
    plan = Plan(name, "asked for", height, width, channels, num_classes, 64)
    nothing = Statistics((0.0,) * channels, (1.0,) * channels)
    network = architectures.build(plan, ModelSettings(architecture=name), nothing, fused=False)
    entry = Entry(
        name, height, width, channels, network.count_params(), flops(network), _about(name), name in FAMILIES
    )
    keras.utils.clear_session()
    return entry


def _about(name: str) -> str:
    if name in FAMILIES:
        return f"{FAMILIES[name].constructor} of keras.applications, pretrained weights or none"
    if name == RESNET_FAST:
        return "Our own residual network, made for time to accuracy."
    if name == CONV:
        return "A convolutional network to one's own plan: model.conv_… (here by the defaults)."
    return (LADDER[name].__doc__ or "").strip().splitlines()[0]
