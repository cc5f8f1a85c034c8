"""The settings of the network: `[model]`."""

from __future__ import annotations

from dataclasses import dataclass

from pergola.components import records
from pergola.components.imaging.decode import ASPECTS
from pergola.components.imaging.pretrained import AUTO, FAMILIES
from pergola.components.training.models.baselines import BASELINES

RESNET_FAST, CONV = "resnet_fast", "conv"
NAMES = (AUTO, RESNET_FAST, CONV, *BASELINES, *FAMILIES)


@dataclass(frozen=True)
class ModelSettings:
    """The network: its architecture, its input, where its weights come from."""

    architecture: str = records.setting(
        AUTO, "architecture; auto chooses one and gives the reason", choices=NAMES
    )
    image_size: int = records.setting(
        0, "side of the network's square input in pixels; 0: from the images", low=0, high=1024
    )
    aspect: str = records.setting(
        "stretch", "how images with another aspect ratio are fitted to the input", choices=ASPECTS
    )
    weights: str = records.setting(
        "",
        "pretrained weights: a .h5 file without top, or imagenet (Keras's cache or download); empty: none",
        file=True,
    )
    scaling: str = records.setting(
        "zscore",
        "how pixels are scaled: to 0-1, minus the mean, or minus the mean and divided by the deviation",
        choices=("unit", "mean", "zscore"),
    )
    width: int = records.setting(
        0, "channels of resnet_fast's first stage; 0: from the images", low=0, high=512
    )
    dropout: float = records.setting(0.2, "dropout rate before the last layer", low=0.0, high=0.9)
    conv_blocks: int = records.setting(3, "conv: blocks, each with twice the filters", low=1, high=6)
    conv_filters: int = records.setting(32, "conv: filters of the first block", low=1, high=1024)
    conv_kernel: int = records.setting(3, "conv: kernel size", low=1, high=15)
    conv_pool: str = records.setting(
        "max", "conv: pooling; global: max, with global average pooling at the end",
        choices=("max", "average", "global"),
    )  # fmt: skip
    conv_separable: bool = records.setting(False, "conv: depthwise separable convolutions")
    conv_residual: bool = records.setting(False, "conv: residual connection around each block")
    conv_attention: bool = records.setting(False, "conv: channel attention (squeeze and excitation)")
    conv_normalize: bool = records.setting(True, "conv: batch normalisation")
    conv_dropout: float = records.setting(0.25, "conv: dropout rate after each block", low=0.0, high=0.9)
    conv_dense: tuple[int, ...] = records.setting(
        (128,), "conv: units of the dense layers before the last", low=1, high=8192
    )
    conv_activation: str = records.setting(
        "relu", "conv: activation", choices=("relu", "gelu", "silu", "elu", "tanh", "leaky_relu")
    )
