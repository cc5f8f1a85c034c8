"""Networks of `keras.applications`: weights from a file, from Keras's cache or download, or random.

Each family preprocesses pixels in its own way. That is part of the network here, and so of the exported
model. Batch normalisation keeps its pretrained statistics.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pergola.components.errors import InputError

AUTO = "auto"  # instead of a name: detect it
IMAGENET = "imagenet"  # instead of a file: Keras's cache or download
NEWEST_FORMAT = ".weights.h5"


@dataclass(frozen=True)
class Family:
    """One architecture of keras.applications."""

    constructor: str
    mark: str  # name of a layer that only this architecture has
    pixels: str  # "symmetric": to -1..1; "caffe": BGR minus ImageNet's mean; "own": it has a scaling layer
    least_side: int  # minimum input size in pixels
    options: dict[str, Any] = field(default_factory=dict)
    depthwise: bool = False  # consists mostly of depthwise convolutions


FAMILIES = {
    "vgg16": Family("VGG16", "block5_conv3", "caffe", 32),
    "inception_v3": Family("InceptionV3", "mixed10", "symmetric", 75),
    "xception": Family("Xception", "block14_sepconv2", "symmetric", 71, depthwise=True),
    "resnet50": Family("ResNet50", "conv5_block3_3_conv", "caffe", 32),
    "mobilenet_v2": Family("MobileNetV2", "block_16_project", "symmetric", 32, depthwise=True),
    "mobilenet_025": Family("MobileNet", "conv_pw_13", "symmetric", 32, {"alpha": 0.25}, depthwise=True),
    "efficientnet_v2b0": Family("EfficientNetV2B0", "block6h_se_expand", "own", 32, depthwise=True),
    "convnext_tiny": Family("ConvNeXtTiny", "convnext_tiny_stage_3_block_2_depthwise_conv", "own", 32),
}


def check_weights(weights: str, architecture: str) -> None:
    """Check that weights can be used, without loading TensorFlow.

    weights: "" for none, "imagenet", or a file.  architecture: a name, or "auto" for the one in the file.
    Raises InputError for an architecture without pretrained weights, and for a file that is missing, not
    HDF5, or of another architecture.
    """
    if not weights:
        return
    if architecture not in (AUTO, *FAMILIES):
        raise InputError(
            f"model.weights: '{architecture}' takes no pretrained weights. Remove one of the two settings."
        )
    if weights == IMAGENET:
        return
    found = architecture_of(weights)
    if found is not None and architecture not in (AUTO, found):
        raise InputError(f"model.weights: {weights} holds weights of '{found}', wanted '{architecture}'.")


def features(name: str, inputs: Any, weights: str) -> Any:
    """Pooled features (N, D) of images (N, H, W, C) from 0 to 255.

    weights: "" for random weights, "imagenet" for Keras's, or a file (.h5, without top).
    Raises InputError for a file that is missing or of another architecture.
    """
    network = _without_top(name, _prepare(inputs, FAMILIES[name].pixels))
    if weights:
        height, width = inputs.shape[1:3]
        network.set_weights(_loaded(name, weights, (height, width, 3)))
    return network.output


def _loaded(name: str, weights: str, shape: tuple[int, int, int]) -> list[Any]:
    """The weights, loaded into a network without preprocessing layers, as Keras stores them."""
    import keras

    if weights == IMAGENET:
        return list(_without_top(name, keras.Input(shape), IMAGENET).get_weights())
    check_weights(weights, name)
    path = Path(weights)
    network = _without_top(name, keras.Input(shape))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Keras only warns when it skips layers
            network.load_weights(path)
    except (ValueError, KeyError, OSError, UserWarning) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"model.weights: {path} does not fit '{name}' without its top ({reason}). "
            "Give weights without top of this architecture and width."
        ) from None
    return list(network.get_weights())


def _without_top(name: str, inputs: Any, weights: str | None = None) -> Any:
    import keras

    family = FAMILIES[name]
    constructor = getattr(keras.applications, family.constructor)
    return constructor(
        include_top=False, weights=weights, input_tensor=inputs, pooling="avg", **family.options
    )


def architecture_of(weights: str) -> str | None:
    """The architecture of the weights in a file, by its layer names; None when it is unknown.

    "imagenet", which exists for all, counts as MobileNetV2. Keras 2 files name their layers; Keras 3 files
    (.weights.h5) number them, so their architecture is unknown.
    Raises InputError when the file does not exist or is not an HDF5 file.
    """
    import h5py

    if weights == IMAGENET:
        return "mobilenet_v2"
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"model.weights: '{path}' is no file. Give a .h5 file of weights without top.")
    try:
        with h5py.File(path) as file:
            layers = _layer_names(file)
    except OSError:
        raise InputError(f"model.weights: {path} is no HDF5 file. Give a .h5 file of weights.") from None
    matches = [name for name, family in FAMILIES.items() if family.mark in layers]
    return matches[0] if len(matches) == 1 else None


def trainable(network: Any, share: float, head: str) -> list[Any]:
    """Freeze all layers but the head and the last `share` of the others; returns the latter.

    Batch normalisation always stays frozen, that is, in inference mode.
    """
    layers = [layer for layer in network.layers if layer.weights and layer.name != head]
    learnable = [layer for layer in layers if not layer.__class__.__name__.endswith("BatchNormalization")]
    first = len(learnable) - round(share * len(learnable))
    for layer in layers:
        layer.trainable = False
    for layer in learnable[first:]:
        layer.trainable = True
    return learnable[first:]


def _prepare(inputs: Any, pixels: str) -> Any:
    from keras import layers

    x = layers.Concatenate()([inputs] * 3) if inputs.shape[-1] == 1 else inputs
    if pixels == "symmetric":
        return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scale")(x)
    if pixels == "caffe":
        shift = {"mean": [103.939, 116.779, 123.68], "variance": [1.0, 1.0, 1.0]}
        return layers.Normalization(**shift, dtype="float32", name="scale")(x[..., ::-1])
    return x


def _layer_names(file: Any) -> set[str]:
    return {
        name.decode() if isinstance(name, bytes) else str(name) for name in file.attrs.get("layer_names", ())
    }
