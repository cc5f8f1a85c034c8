"""Python values (numbers, text, bytes, nested lists, arrays) to the TensorProto that a client sends."""

from __future__ import annotations

from typing import Any

import numpy as np

from pergola.serving.wire.datatypes import BY_NAME, STRING, DataType, TensorError, data_type_of, numpy_types
from pergola.serving.wire.protos.tensor_pb2 import TensorProto
from pergola.serving.wire.tensors import RAGGED, Array, fill


def to_tensor(values: Any, dtype: str | None = None) -> TensorProto:
    """A TensorProto of an array, a number, bytes, a text, or nested lists of them.

    Python numbers become float32 and int32 (int64 if necessary), as in TensorFlow; arrays keep their dtype.
    dtype: "float32", "bfloat16", "qint8", "string", …; by default that of the values.
    Raises TensorError for rows of different lengths and for objects that cannot be sent.

    >>> to_tensor([[1.0, 2.0]]).tensor_shape.dim[1].size
    2
    """
    if isinstance(values, TensorProto):
        return values
    array = _as_array(values)
    kind = STRING if dtype == "string" else data_type_of(array.dtype)
    if kind is not STRING and dtype not in (None, kind.name):
        array, kind = _converted(array, str(dtype))
    return fill(TensorProto(), array, kind, as_content=True)


def _as_array(values: Any) -> Array:
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, bytes | bytearray | memoryview):
        return _objects(bytes(values), ())
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise TensorError(RAGGED) from error
    if array.dtype.kind == "S":  # NumPy cuts trailing zero bytes off
        return _objects(values, array.shape)
    if hasattr(values, "__array__") or _holds_numpy(values):
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64 and (array.size == 0 or abs(array).max() < 2**31):
        return array.astype(np.int32)
    return array


def _objects(values: Any, shape: tuple[int, ...]) -> Array:
    """Nested lists of bytes as an object array that keeps every byte."""
    array = np.empty(shape, dtype=object)
    array[...] = values
    return array


def _holds_numpy(values: Any) -> bool:
    while isinstance(values, list | tuple) and values:
        values = values[0]
    return isinstance(values, np.generic | np.ndarray)


def _converted(array: Array, name: str) -> tuple[Array, DataType]:
    kind = BY_NAME.get(name)
    if kind is None:
        raise TensorError(f"Cannot send an array as {name}. Expected one of {', '.join(BY_NAME)}.")
    if kind.name == "bfloat16":
        return _bfloat16_bits(array), kind
    return array.astype(numpy_types(kind.number)[0]), kind


def _bfloat16_bits(array: Array) -> Array:
    """The upper half of a float32, rounded half to even; NaN stays NaN."""
    floats = np.ascontiguousarray(array, dtype=np.float32)
    bits = floats.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(floats), (bits >> 16) | 0x40, rounded).astype(np.uint16)
