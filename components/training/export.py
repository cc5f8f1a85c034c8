"""Export to a SavedModel that takes encoded images and returns label names and probabilities.

Decoding, EXIF orientation, resizing, scaling, calibration, costs and label names are part of the graph:
no client can prepare images or read outputs differently from the evaluation. Its signatures are those of
serving/wire/contract.py. It computes in float32, whatever the dtype of training. The temperature and the
costs in the graph are also written to temperature.json and costs.json in assets.extra/.
"""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pergola.components import digest
from pergola.components.artifacts.data import VALIDATION, Shards
from pergola.components.artifacts.training import Export, Training
from pergola.components.data.shard_reader import read_images
from pergola.components.imaging import decode
from pergola.components.records import setting
from pergola.components.stats.costs import Costs, read_costs
from pergola.components.stats.temperature import Temperature, choose_temperature
from pergola.components.training import warmup
from pergola.components.training.fit import MODEL
from pergola.components.training.models.architectures import LOGITS
from pergola.components.training.models.batch_norm_folding import fold_batch_norm
from pergola.serving.wire import contract
from pergola.serving.wire.images import MAX_PIXELS, PIXELS_OF_ANY_MODEL

if TYPE_CHECKING:
    import keras

SAVED_MODEL = "saved_model"
MAX_CALIBRATION_IMAGES = 5000  # that the temperature is fitted on
BATCH = 64


@dataclass(frozen=True)
class ExportSettings:
    """What the exported model contains besides the network."""

    calibrate: bool = setting(
        True, "temperature scaling, fitted on the validation split, so that confidence matches accuracy"
    )
    costs: str = setting(
        "",
        "CSV file of misclassification costs; the model then also returns the cheapest decision; empty: none",
        file=True,
    )
    max_pixels: int = setting(
        0,
        "the model refuses images with more pixels; 0: the size of the largest one of the data set, at least "
        "16,777,216",
        low=0,
        high=MAX_PIXELS,
    )

    def limit(self, shards: Shards) -> int:
        """Pixels of the largest image that the model decodes."""
        seen = shards.max_pixels or shards.max_side**2
        return self.max_pixels or min(max(PIXELS_OF_ANY_MODEL, seen), MAX_PIXELS)


def export(training_folder: Path, shards_folder: Path, out: Path, settings: ExportSettings) -> Export:
    """Write saved_model/ and export.json into `out`.

    Logits are divided by the temperature before the softmax; it is above 1 for an overconfident network
    (Guo et al., 2017). It is fitted on at most 5,000 validation images, decoded as the model decodes them,
    and used only if it helps on images that it was not fitted on.
    Raises InputError for costs that do not match the classes.
    """
    import keras

    training, shards = Training.load(training_folder), Shards.load(shards_folder)
    costs = read_costs(settings.costs, training.labels) if settings.costs else None
    network = keras.saving.load_model(training_folder / MODEL, compile=False, safe_mode=True)
    partial = out / f".{SAVED_MODEL}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    max_pixels = settings.limit(shards)
    module = _module(network, training, costs, max_pixels)
    temperature = _calibrate(module, shards_folder) if settings.calibrate else None
    if temperature:
        module.set_temperature(temperature.value)
    _write(module, partial)
    for record in filter(None, (temperature, costs)):
        record.save(partial / warmup.EXTRA)
    warmup.write(shards_folder, shards, partial)
    target = out / SAVED_MODEL
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    exported = Export(
        training.labels,
        training.height,
        training.width,
        training.channels,
        sum(path.stat().st_size for path in target.rglob("*") if path.is_file()),
        digest.of_folder(target),
        digest.of_folder(target / "variables"),
        max_pixels,
    )
    exported.save(out)
    return exported


def _calibrate(module: Any, shards_folder: Path) -> Temperature:
    """The temperature chosen on the validation split, to four digits; 1 where none was shown to help."""
    import tensorflow as tf

    images = list(itertools.islice(read_images(shards_folder, VALIDATION), MAX_CALIBRATION_IMAGES))
    if not images:
        return Temperature(1.0, 0, 0.0, 0.0)
    signature = [tf.TensorSpec((None,), tf.string)]
    logits_of = tf.function(module.logits, input_signature=signature, autograph=False)
    batches = (images[at : at + BATCH] for at in range(0, len(images), BATCH))
    logits = np.concatenate([logits_of([one.image for one in batch]).numpy() for batch in batches])
    labels = np.array([one.label for one in images], np.int64)
    scores = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    chosen = choose_temperature(scores / scores.sum(axis=1, keepdims=True), labels)
    return replace(chosen, value=float(f"{chosen.value:.4g}"))


def _write(module: Any, folder: Path) -> None:
    import tensorflow as tf

    signatures = {
        contract.SERVING_DEFAULT: module.serve.get_concrete_function(),
        contract.TENSOR: module.serve_tensor.get_concrete_function(),
        contract.EMBEDDING: module.embed.get_concrete_function(),
        contract.LABELS: module.name.get_concrete_function(),
    }
    if module.explains:
        signatures[contract.SALIENCY] = module.explain.get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _module(network: keras.Model, training: Training, costs: Costs | None, max_pixels: int) -> Any:
    """The graph, as a module with the network's weights as its only variables."""
    import keras
    import tensorflow as tf

    size = (training.height, training.width)
    network = fold_batch_norm(network)
    features = network.get_layer(LOGITS).input
    maps, head = _last_maps(network) or (features, None)
    whole = keras.Model(network.input, [maps, features, network.output])
    pixels = tf.TensorSpec((None, *size, training.channels), tf.uint8)
    encoded = tf.TensorSpec((None,), tf.string, contract.IMAGE)
    decoded = tf.TensorSpec((None, None, None, training.channels), tf.uint8, contract.IMAGE)
    indices = tf.TensorSpec((None,), tf.int64, contract.INDEX)

    class Classifier(tf.Module):
        def __init__(self) -> None:
            super().__init__(name="pergola")
            self.explains = head is not None
            self.weights = [variable.value for variable in whole.weights]
            self.labels = tf.constant(training.labels)
            self.temperature = tf.constant(1.0, tf.float32)

        def set_temperature(self, value: float) -> None:
            """Must be called before `serve` and `serve_tensor` are traced, because it becomes a constant."""
            self.temperature = tf.constant(value, tf.float32)

        def logits(self, image: Any) -> Any:
            """float32 (N, C), before the temperature."""
            return tf.cast(self._outputs(image)[2], tf.float32)

        @tf.function(input_signature=[encoded], autograph=False)
        def serve(self, image: Any) -> dict[str, Any]:
            return self._response(self._decoded(image))

        @tf.function(input_signature=[decoded], autograph=False)
        def serve_tensor(self, image: Any) -> dict[str, Any]:
            # A server does not check shapes against the signature, and TensorFlow 2.21 with oneDNN aborts the
            # process on a convolution of a three-dimensional tensor. This check runs with every request.
            image = tf.ensure_shape(image, decoded.shape)
            return self._response(decode.resize(image, *size, training.aspect))

        @tf.function(input_signature=[encoded], autograph=False)
        def embed(self, image: Any) -> dict[str, Any]:
            return {contract.EMBEDDING: tf.cast(self._outputs(image)[1], tf.float32)}

        @tf.function(input_signature=[encoded], autograph=False)
        def explain(self, image: Any) -> dict[str, Any]:
            return {contract.SALIENCY: _grad_cam(self._outputs(image)[0], head)}

        @tf.function(input_signature=[indices], autograph=False)
        def name(self, index: Any) -> dict[str, Any]:
            return {
                contract.LABEL: tf.gather(self.labels, index),
                contract.MAX_PIXELS: tf.fill(tf.shape(index), tf.constant(max_pixels, tf.int64)),
            }

        @tf.function(input_signature=[pixels], autograph=False)
        def _compute(self, images: Any) -> Any:
            return whole(tf.cast(_guard_count(images), tf.float32), training=False)

        def _outputs(self, image: Any) -> Any:
            return self._compute(self._decoded(image))

        def _decoded(self, image: Any) -> Any:
            return decode.load_batch(image, *size, training.channels, training.aspect, max_pixels)

        def _response(self, images: Any) -> dict[str, Any]:
            _, _, logits = self._compute(images)
            probabilities = tf.nn.softmax(tf.cast(logits, tf.float32) / self.temperature)
            best = tf.argmax(probabilities, 1)
            response = {
                contract.PROBABILITIES: probabilities,
                contract.LABEL: tf.gather(self.labels, best),
                contract.PROBABILITY: tf.reduce_max(probabilities, 1),
            }
            if costs is not None:
                cheapest = tf.argmin(tf.matmul(probabilities, tf.constant(costs.constants())), 1)
                response[contract.DECISION] = tf.gather(tf.constant(costs.actions), cheapest)
            return response

    return Classifier()


def _last_maps(network: keras.Model) -> tuple[Any, keras.Model] | None:
    """The last feature maps, (N, H, W, K) with more than one position, and the network from there on.

    None if no feature maps separate the network's input from its output.
    """
    import keras

    found = [layer.output for layer in network.layers if len(getattr(layer.output, "shape", ())) == 4]
    wide = [maps for maps in found[1:] if min(maps.shape[1:3]) > 1]  # the first is the input
    for maps in reversed(wide):
        try:
            return maps, keras.Model(maps, network.output)
        except ValueError:  # inside a branch: the output depends on other tensors too
            continue
    return None


def _grad_cam(maps: Any, head: keras.Model) -> Any:
    """Grad-CAM of the likeliest class (Selvaraju et al., 2017): float32 (N, H, W), 0 to 1, with maximum 1."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(maps)
        best = tf.reduce_max(head(maps, training=False), 1)
    weights = tf.reduce_mean(tape.gradient(best, maps), [1, 2], keepdims=True)
    heatmap = tf.nn.relu(tf.reduce_sum(tf.cast(weights * maps, tf.float32), -1))
    return tf.math.divide_no_nan(heatmap, tf.reduce_max(heatmap, [1, 2], keepdims=True))


def _guard_count(images: Any) -> Any:
    """Reject an empty batch, for which oneDNN's convolutions give an obscure error."""
    import tensorflow as tf

    check = tf.debugging.Assert(tf.shape(images)[0] > 0, ["Expected at least one image, got none."])
    with tf.control_dependencies([check]):
        return tf.identity(images)
