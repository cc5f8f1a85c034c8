"""A TFLite model as a callable: `model.tflite` in a version folder, with --prefer_tflite_model."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pergola.serving.server.config.errors import Code, LoadFailed, RuntimeFailure
from pergola.serving.server.core.model import DEFAULT_SIGNATURE, PREDICT, Signature
from pergola.serving.wire.datatypes import data_type_of
from pergola.serving.wire.tensors import Array

FILE = "model.tflite"


class LiteModel:
    """A TFLite model and a few interpreters of it; each request takes one."""

    def __init__(self, interpreters: list[Any]) -> None:
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for interpreter in interpreters:
            self._free.put(interpreter)
        self._count = len(interpreters)
        self._by_key = bool(interpreters[0].get_signature_list())
        self.signatures: Mapping[str, Signature] = _signatures(interpreters[0])
        self.signature_defs: Mapping[str, Any] = {
            name: _signature_def(signature, interpreters[0]) for name, signature in self.signatures.items()
        }

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str], timeout_ms: int = 0) -> list[Array]:
        """Values of `fetches`. Tensor names are "<signature>/<alias>", as `signatures` gives them."""
        name = next(iter(fetches)).partition("/")[0]
        inputs = {feed.partition("/")[2]: array for feed, array in feeds.items()}
        interpreter = self._free.get()
        try:
            outputs = (
                self._by_signature(interpreter, name, inputs) if self._by_key else _plain(interpreter, inputs)
            )
            return [np.array(outputs[fetch.partition("/")[2]]) for fetch in fetches]
        except (ValueError, RuntimeError, KeyError) as error:
            raise RuntimeFailure(Code.INVALID_ARGUMENT, str(error)) from None
        finally:
            self._free.put(interpreter)

    def close(self) -> None:
        """Free the interpreters."""
        for _ in range(self._count):
            self._free.get()

    def _by_signature(self, interpreter: Any, name: str, inputs: dict[str, Array]) -> Mapping[str, Array]:
        return interpreter.get_signature_runner(name)(**inputs)


def load(folder: Path, num_interpreters: int = 1, num_threads: int = 0) -> LiteModel:
    """The TFLite model in a version folder. Raises LoadFailed."""
    import tensorflow as tf

    path = folder / FILE
    try:
        with warnings.catch_warnings():
            # TensorFlow 2.21 warns that this class will move to a package of its own.
            warnings.simplefilter("ignore")
            interpreters = [
                tf.lite.Interpreter(model_path=str(path), num_threads=num_threads or None)
                for _ in range(num_interpreters)
            ]
            for interpreter in interpreters:
                interpreter.allocate_tensors()
    except (ValueError, RuntimeError, OSError) as error:
        raise LoadFailed(message=f"{path} cannot be loaded: {error}") from error
    return LiteModel(interpreters)


def _signatures(interpreter: Any) -> dict[str, Signature]:
    listed = interpreter.get_signature_list()
    if not listed:
        listed = {
            DEFAULT_SIGNATURE: {
                "inputs": [detail["name"] for detail in interpreter.get_input_details()],
                "outputs": [detail["name"] for detail in interpreter.get_output_details()],
            }
        }
        details = {detail["name"]: detail for detail in interpreter.get_input_details()}
        return {name: _signature(name, parts, details) for name, parts in listed.items()}
    return {
        name: _signature(name, parts, interpreter.get_signature_runner(name).get_input_details())
        for name, parts in listed.items()
    }


def _signature(name: str, parts: Mapping[str, list[str]], details: Mapping[str, Any]) -> Signature:
    return Signature(
        name=name,
        method_name=PREDICT,
        inputs={alias: f"{name}/{alias}" for alias in sorted(parts["inputs"])},
        outputs={alias: f"{name}/{alias}" for alias in sorted(parts["outputs"])},
        dtypes={alias: _enum(details[alias]) for alias in parts["inputs"]},
        shapes={alias: _shape(details[alias]) for alias in parts["inputs"]},
    )


def _signature_def(signature: Signature, interpreter: Any) -> Any:
    from tensorflow.core.protobuf import meta_graph_pb2

    outputs = {d["name"]: d for d in interpreter.get_output_details()}
    if interpreter.get_signature_list():
        outputs = interpreter.get_signature_runner(signature.name).get_output_details()
    message = meta_graph_pb2.SignatureDef(method_name=signature.method_name)
    for alias, tensor in signature.inputs.items():
        _fill(message.inputs[alias], tensor, signature.dtypes[alias], signature.shapes[alias] or ())
    for alias, tensor in signature.outputs.items():
        _fill(message.outputs[alias], tensor, _enum(outputs[alias]), _shape(outputs[alias]))
    return message


def _fill(info: Any, tensor: str, dtype: int, shape: tuple[int, ...]) -> None:
    info.name, info.dtype = tensor, dtype
    info.tensor_shape.SetInParent()
    for size in shape:
        info.tensor_shape.dim.add(size=size)


def _enum(detail: Mapping[str, Any]) -> int:
    return data_type_of(np.dtype(detail["dtype"])).number


def _shape(detail: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(size) for size in detail.get("shape_signature", detail["shape"]))


def _plain(interpreter: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model that has no signatures."""
    for detail in interpreter.get_input_details():
        interpreter.resize_tensor_input(detail["index"], inputs[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    return {d["name"]: interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()}
