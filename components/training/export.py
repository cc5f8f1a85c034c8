"""A SavedModel that takes pictures as they come: bytes in, label names and probabilities out.

Decoding, EXIF, resizing, scaling, calibration and label names are inside, so no caller can prepare
pictures otherwise than training did. Signatures are those of serving/contract.py. It computes in
float32, whatever it was trained in.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import digest
from components.artifacts import Export, Shards, Training
from components.data import images
from components.training import warmup
from components.training.architectures import LOGITS
from components.training.fit import MODEL
from components.training.fold import fold
from serving import contract

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

SAVED_MODEL = "saved_model"


def export(training_folder: Path, shards_folder: Path, out: Path, *, temperature: float = 1.0) -> Export:
    """Write saved_model/ and export.json into `out`.

    temperature: what logits are divided by before they become probabilities; more than 1 for a model
    that is surer than it is right (Guo et al., 2017).
    """
    import keras

    training, shards = Training.load(training_folder), Shards.load(shards_folder)
    network = keras.saving.load_model(training_folder / MODEL, compile=False, safe_mode=True)
    partial = out / f".{SAVED_MODEL}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _write(network, training, temperature, partial)
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
    )
    exported.save(out)
    return exported


def _write(network: keras.Model, training: Training, temperature: float, folder: Path) -> None:
    import tensorflow as tf

    module = _module(network, training, temperature)
    signatures = {
        contract.SERVING_DEFAULT: module.serve.get_concrete_function(),
        contract.TENSOR: module.serve_tensor.get_concrete_function(),
        contract.EMBEDDING: module.embed.get_concrete_function(),
        contract.LABELS: module.name.get_concrete_function(),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _module(network: keras.Model, training: Training, temperature: float) -> tf.Module:
    """The graph, as a module whose only variables are the network's weights."""
    import keras
    import tensorflow as tf

    size = (training.height, training.width)
    network = fold(network)
    both = keras.Model(network.input, [network.get_layer(LOGITS).input, network.output])
    pixels = tf.TensorSpec((None, *size, training.channels), tf.uint8)
    encoded = tf.TensorSpec((None,), tf.string, contract.IMAGE)
    decoded = tf.TensorSpec((None, None, None, training.channels), tf.uint8, contract.IMAGE)
    indices = tf.TensorSpec((None,), tf.int64, contract.INDEX)

    class Classifier(tf.Module):
        def __init__(self) -> None:
            super().__init__(name="pergola")
            self.weights = [variable.value for variable in both.weights]
            self.labels = tf.constant(training.labels)
            self.temperature = tf.constant(temperature, tf.float32)

        @tf.function(input_signature=[encoded])
        def serve(self, image: Any) -> dict[str, Any]:
            return self._answer(images.load_batch(image, *size, training.channels, training.aspect))

        @tf.function(input_signature=[decoded])
        def serve_tensor(self, image: Any) -> dict[str, Any]:
            # A server does not hold shapes against the signature, and TensorFlow 2.21 with oneDNN ends the
            # process on a convolution of a three-dimensional tensor. This check runs with every request.
            image = tf.ensure_shape(image, decoded.shape)
            return self._answer(images.resize(image, *size, training.aspect))

        @tf.function(input_signature=[encoded])
        def embed(self, image: Any) -> dict[str, Any]:
            pictures = images.load_batch(image, *size, training.channels, training.aspect)
            features, _ = self._compute(pictures)
            return {contract.EMBEDDING: tf.cast(features, tf.float32)}

        @tf.function(input_signature=[indices])
        def name(self, index: Any) -> dict[str, Any]:
            return {contract.LABEL: tf.gather(self.labels, index)}

        @tf.function(input_signature=[pixels])
        def _compute(self, pictures: Any) -> Any:
            return both(tf.cast(_guard_count(pictures), tf.float32), training=False)

        def _answer(self, pictures: Any) -> dict[str, Any]:
            _, logits = self._compute(pictures)
            probabilities = tf.nn.softmax(tf.cast(logits, tf.float32) / self.temperature)
            best = tf.argmax(probabilities, 1)
            return {
                contract.PROBABILITIES: probabilities,
                contract.LABEL: tf.gather(self.labels, best),
                contract.PROBABILITY: tf.reduce_max(probabilities, 1),
            }

    return Classifier()


def _guard_count(pictures: Any) -> Any:
    """Refuse an empty batch, which oneDNN's convolutions answer with a puzzling error."""
    import tensorflow as tf

    check = tf.debugging.Assert(tf.shape(pictures)[0] > 0, ["Wanted at least one image, got none."])
    with tf.control_dependencies([check]):
        return tf.identity(pictures)
