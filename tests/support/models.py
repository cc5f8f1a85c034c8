"""Small real SavedModels. Each builder writes `<base>/<version>/` and gives that folder.

TensorFlow is imported when a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("dark", "bright")


def half_plus_two(base: Path, version: int = 1, add: float = 2.0) -> Path:
    """TF2. serving_default: x float (N,) -> y = x / 2 + `add`."""
    import tensorflow as tf

    class HalfPlus(tf.Module):
        def __init__(self) -> None:
            self.half, self.add = tf.Variable(0.5), tf.Variable(add)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x):
            return {"y": self.half * x + self.add}

    module = HalfPlus()
    return _save(module, base, version, {"serving_default": module.__call__})


def classifier(
    base: Path,
    version: int = 1,
    size: int = 8,
    tilt: float = 0.0,
    labels: Sequence[str] = LABELS,
    classes: Sequence[str] = (),
    more: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """An image classifier with pergola's four signatures (serving/wire/contract.py), of `size` pixels a side.

    It tells bright images from dark ones; `tilt` is added to the logit of "bright".  labels: what it calls
    dark and bright images.  classes: what the signature "labels" calls them, if that is something else.
    more: further outputs, name -> the values for dark and bright images.
    """
    import tensorflow as tf

    class Classifier(tf.Module):
        def __init__(self) -> None:
            self.weights = tf.Variable([[-8.0, 8.0]])
            self.bias = tf.Variable([4.0, -4.0 + tilt])
            self.labels = tf.constant(labels)
            self.classes = tf.constant(classes or labels)

        def answer(self, pixels):
            mean = tf.reduce_mean(tf.cast(pixels, tf.float32) / 255.0, axis=[1, 2, 3])[:, None]
            probabilities = tf.nn.softmax(mean @ self.weights + self.bias)
            best = tf.argmax(probabilities, axis=-1)
            return {
                "probabilities": probabilities,
                "label": tf.gather(self.labels, best),
                "probability": tf.reduce_max(probabilities, axis=-1),
                **{name: tf.gather(tf.constant(values), best) for name, values in (more or {}).items()},
            }

        def decode(self, encoded):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            return tf.cast(tf.image.resize(image, [size, size]), tf.uint8)

        def pixels(self, encoded):
            return tf.map_fn(self.decode, encoded, fn_output_signature=tf.uint8)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
        def serving_default(self, image):
            return self.answer(self.pixels(image))

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="image")])
        def tensor(self, image):
            return self.answer(image)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
        def embedding(self, image):
            return {"embedding": tf.reduce_mean(tf.cast(self.pixels(image), tf.float32), axis=[1, 2])}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="index")])
        def label_names(self, index):
            return {"label": tf.gather(self.classes, index)}

    module = Classifier()
    return _save(
        module,
        base,
        version,
        {
            "serving_default": module.serving_default,
            "tensor": module.tensor,
            "embedding": module.embedding,
            "labels": module.label_names,
        },
    )


def slow(base: Path, version: int = 1, ms: float = 50.0, per_row: bool = False) -> Path:
    """TF2. serving_default: x float (N,) -> y = x + 1, after `ms` of work a run, or a row."""
    import tensorflow as tf

    class Slow(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def __call__(self, x):
            rows = tf.cast(tf.size(x) if per_row else 1, tf.float64)
            until = tf.timestamp() + ms / 1000 * rows
            with tf.control_dependencies([until]):
                spun = tf.while_loop(lambda i: tf.timestamp() < until, lambda i: [i + 1], [tf.constant(0)])
            return {"y": x + 1.0 + 0.0 * tf.cast(spun[0], tf.float32)}

    module = Slow()
    return _save(module, base, version, {"serving_default": module.__call__})


ECHOED = (
    *("float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool"),
    *("bfloat16", "uint16", "complex128", "float16", "uint32", "uint64"),
)


def echo(base: Path, version: int = 1) -> Path:
    """TF2. A signature for each dtype of `ECHOED`, of its name: x of any shape -> x_out, the same."""
    import tensorflow as tf

    module = tf.Module()
    signatures = {}
    for name in ECHOED:
        dtype = tf.as_dtype(name)
        signatures[name] = tf.function(
            lambda x: {"x_out": tf.identity(x)}, input_signature=[tf.TensorSpec(None, dtype, name="x")]
        )
    module.functions = list(signatures.values())
    return _save(module, base, version, signatures)


def two_inputs(base: Path, version: int = 1) -> Path:
    """TF2. serving_default: a float (N,), b float (N,) -> sum, difference, name_bytes (string)."""
    import tensorflow as tf

    class Two(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.float32, name="a"),
                tf.TensorSpec([None], tf.float32, name="b"),
            ]
        )
        def __call__(self, a, b):
            return {"sum": a + b, "difference": a - b, "name_bytes": tf.as_string(a)}

    module = Two()
    return _save(module, base, version, {"serving_default": module.__call__})


def convolution(base: Path, version: int = 1) -> Path:
    """TF2. serving_default: image float of any shape -> y, through a 3 x 3 convolution and a mean."""
    import tensorflow as tf

    class Convolution(tf.Module):
        def __init__(self) -> None:
            self.kernel = tf.Variable(tf.ones([3, 3, 3, 4]) / 27)

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="image")])
        def __call__(self, image):
            scaled = image / 255.0
            return {
                "y": tf.reduce_mean(
                    tf.nn.relu(
                        tf.raw_ops.Conv2D(
                            input=scaled, filter=self.kernel, strides=[1, 1, 1, 1], padding="SAME"
                        )
                    ),
                    axis=[1, 2],
                )
            }

    module = Convolution()
    return _save(module, base, version, {"serving_default": module.__call__})


def tf1(base: Path, version: int = 1) -> Path:
    """TF1, with the stock server's kinds of signatures on tf.train.Examples with a float feature "x":

    serving_default (predict)  x float -> y = x / 2 + 2
    regress_x_to_y             inputs -> outputs (N, 1)
    classify_x_to_y            inputs -> classes (N, 1) strings, scores (N, 1)
    classify_scores            inputs -> scores (N, 1) alone
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    folder = base / str(version)
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        parsed = v1.parse_example(serialized, {"x": v1.FixedLenFeature([1], tf.float32)})
        x = tf.identity(parsed["x"], name="x")
        half, two = v1.Variable(0.5, name="a"), v1.Variable(2.0, name="b")
        y = tf.add(half * x, two, name="y")
        classes = tf.as_string(y, precision=1, name="classes")
        session.run(v1.global_variables_initializer())
        info, signature = v1.saved_model.build_tensor_info, v1.saved_model.build_signature_def
        examples = {"inputs": info(serialized)}
        kinds = v1.saved_model.signature_constants
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": signature({"x": info(x)}, {"y": info(y)}, kinds.PREDICT_METHOD_NAME),
                "regress_x_to_y": signature(examples, {"outputs": info(y)}, kinds.REGRESS_METHOD_NAME),
                "classify_x_to_y": signature(
                    examples, {"classes": info(classes), "scores": info(y)}, kinds.CLASSIFY_METHOD_NAME
                ),
                "classify_scores": signature(examples, {"scores": info(y)}, kinds.CLASSIFY_METHOD_NAME),
            },
        )
        builder.save()
    return folder


def tf2_examples(base: Path, version: int = 1) -> Path:
    """TF2, whose signatures are all of the method predict, on tf.train.Examples with a float feature "x":

    regress    inputs -> outputs (N, 1), x / 2 + 2
    classify   inputs -> classes (N, 1) strings, scores (N, 1)
    """
    import tensorflow as tf

    taken = [tf.TensorSpec([None], tf.string, name="inputs")]

    class Examples(tf.Module):
        def answer(self, inputs):
            parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})
            return parsed["x"] / 2.0 + 2.0

        @tf.function(input_signature=taken)
        def regress(self, inputs):
            return {"outputs": self.answer(inputs)}

        @tf.function(input_signature=taken)
        def classify(self, inputs):
            scores = self.answer(inputs)
            return {"classes": tf.as_string(scores, precision=1), "scores": scores}

    module = Examples()
    return _save(module, base, version, {"regress": module.regress, "classify": module.classify})


def image_bytes(brightness: int, size: int = 12) -> bytes:
    """A PNG of one grey."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), brightness, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _save(module, base: Path, version: int, signatures) -> Path:
    import tensorflow as tf

    folder = base / str(version)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return folder
