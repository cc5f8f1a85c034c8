"""TensorFlow's data types: their numbers and names, how a TensorProto stores them, and their NumPy dtypes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from pergola.serving.wire.protos import tensor_pb2 as pb


class TensorError(ValueError):
    """A TensorProto that holds no valid tensor, or a value that no TensorProto can hold."""


class DataType(NamedTuple):
    """One DataType. `stored` is the dtype of the bit patterns in `field`, where those are not the numbers."""

    name: str  # NumPy's
    number: int
    field: str  # of TensorProto
    numpy: Any = None  # what np.dtype takes; None when ml_dtypes has it
    stored: Any = None


def _quantized(name: str, number: int, base: type) -> DataType:
    """TensorFlow represents it as a dtype with one field."""
    return DataType(name, number, "int_val", [(name, base)], base)


STRING = DataType("string", pb.DT_STRING, "string_val", object)
_ALL = (
    STRING,
    DataType("float32", pb.DT_FLOAT, "float_val", np.float32),
    DataType("float64", pb.DT_DOUBLE, "double_val", np.float64),
    DataType("int32", pb.DT_INT32, "int_val", np.int32),
    DataType("uint8", pb.DT_UINT8, "int_val", np.uint8),
    DataType("int16", pb.DT_INT16, "int_val", np.int16),
    DataType("int8", pb.DT_INT8, "int_val", np.int8),
    DataType("complex64", pb.DT_COMPLEX64, "scomplex_val", np.complex64),
    DataType("int64", pb.DT_INT64, "int64_val", np.int64),
    DataType("bool", pb.DT_BOOL, "bool_val", np.bool_),
    DataType("uint16", pb.DT_UINT16, "int_val", np.uint16),
    DataType("complex128", pb.DT_COMPLEX128, "dcomplex_val", np.complex128),
    DataType("float16", pb.DT_HALF, "half_val", np.float16, np.uint16),
    DataType("uint32", pb.DT_UINT32, "uint32_val", np.uint32),
    DataType("uint64", pb.DT_UINT64, "uint64_val", np.uint64),
    _quantized("qint8", pb.DT_QINT8, np.int8),
    _quantized("quint8", pb.DT_QUINT8, np.uint8),
    _quantized("qint16", pb.DT_QINT16, np.int16),
    _quantized("quint16", pb.DT_QUINT16, np.uint16),
    _quantized("qint32", pb.DT_QINT32, np.int32),
    DataType("bfloat16", pb.DT_BFLOAT16, "half_val", stored=np.uint16),
    DataType("float8_e5m2", pb.DT_FLOAT8_E5M2, "float8_val", stored=np.uint8),
    DataType("float8_e4m3fn", pb.DT_FLOAT8_E4M3FN, "float8_val", stored=np.uint8),
    DataType("float8_e4m3fnuz", pb.DT_FLOAT8_E4M3FNUZ, "float8_val", stored=np.uint8),
    DataType("float8_e4m3b11fnuz", pb.DT_FLOAT8_E4M3B11FNUZ, "float8_val", stored=np.uint8),
    DataType("float8_e5m2fnuz", pb.DT_FLOAT8_E5M2FNUZ, "float8_val", stored=np.uint8),
    DataType("float4_e2m1fn", pb.DT_FLOAT4_E2M1FN, "float8_val", stored=np.uint8),
    DataType("int4", pb.DT_INT4, "int_val", stored=np.int8),
    DataType("uint4", pb.DT_UINT4, "int_val", stored=np.uint8),
    DataType("int2", pb.DT_INT2, "int_val", stored=np.int8),
    DataType("uint2", pb.DT_UINT2, "int_val", stored=np.uint8),
)
BY_NUMBER = {kind.number: kind for kind in _ALL}
BY_NAME = {kind.name: kind for kind in _ALL}
_BY_DTYPE = {np.dtype(kind.numpy): kind for kind in _ALL if kind.numpy is not None}
_TENSORFLOW_NAMES = {"float32": "float", "float64": "double", "float16": "half"}  # where NumPy's differ


def type_name(number: int) -> str:
    """ "float32" for 1, "string" for 7, …; the DataType's own name where NumPy has none."""
    if number in BY_NUMBER:
        return BY_NUMBER[number].name
    return str(pb.DataType.Name(number)) if number in pb.DataType.values() else f"number {number}"


def tensorflow_name(number: int) -> str:
    """TensorFlow's name for a data type, as in its error messages: "float" for 1."""
    if number not in BY_NUMBER:
        return f"unknown dtype enum ({number})"
    name = BY_NUMBER[number].name
    return _TENSORFLOW_NAMES.get(name, name)


def data_type_of(dtype: np.dtype[Any]) -> DataType:
    """The data type of an array. Raises TensorError when TensorFlow has none for it."""
    kind = _BY_DTYPE.get(dtype)
    if kind is None and dtype.kind in "SUT":
        return STRING
    if kind is None and dtype.names is None:
        kind = BY_NAME.get(dtype.newbyteorder("=").name)
    if kind is None:
        raise TensorError(f"Cannot send an array of {dtype}. Convert it to one of {', '.join(BY_NAME)}.")
    return kind


def numpy_dtype(number: int) -> np.dtype[Any]:
    """The NumPy dtype for a DataType; object for strings. Raises TensorError for types without one."""
    dtype = numpy_types(number)[0]
    return np.dtype(np.float32) if dtype is None else dtype


@functools.cache
def numpy_types(number: int) -> tuple[np.dtype[Any] | None, np.dtype[Any]]:
    """The dtype of the array (None: bfloat16 without ml_dtypes) and of what is stored, of the same size.

    Raises TensorError for types that have no NumPy form, or none without ml_dtypes.
    """
    kind = BY_NUMBER.get(number)
    if kind is None:
        raise TensorError(f"Cannot make an array of a tensor of type {type_name(number)}.")
    if kind.numpy is not None:
        return np.dtype(kind.numpy), np.dtype(kind.stored or kind.numpy)
    stored = np.dtype(kind.stored)
    try:
        import ml_dtypes
    except ImportError:
        if kind.name == "bfloat16":
            return None, stored
        raise TensorError(
            f"Tensors of {kind.name} need the package ml_dtypes: pip install ml_dtypes."
        ) from None
    return np.dtype(getattr(ml_dtypes, kind.name)), stored
