"""The data types of TensorFlow: their numbers, how a TensorProto holds them, and what NumPy calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pergola.serving.client.errors import InvalidInput
from pergola.serving.wire.protos import tensor_pb2

_DT = tensor_pb2.DataType


@dataclass(frozen=True)
class Kind:
    """How one DataType travels: its NumPy type, the field of its values, and how a value is held there."""

    name: str
    number: int
    field: str
    numpy: Any  # what np.dtype takes; None when it comes from ml_dtypes
    stored: Any = None  # bit pattern in `field`, when the values are not the numbers themselves


def _quantized(name: str, base: type) -> np.dtype[Any]:
    return np.dtype([(name, base)])


_KINDS = [
    Kind("float32", _DT.DT_FLOAT, "float_val", np.float32),
    Kind("float64", _DT.DT_DOUBLE, "double_val", np.float64),
    Kind("int32", _DT.DT_INT32, "int_val", np.int32),
    Kind("uint8", _DT.DT_UINT8, "int_val", np.uint8),
    Kind("int16", _DT.DT_INT16, "int_val", np.int16),
    Kind("int8", _DT.DT_INT8, "int_val", np.int8),
    Kind("complex64", _DT.DT_COMPLEX64, "scomplex_val", np.complex64),
    Kind("int64", _DT.DT_INT64, "int64_val", np.int64),
    Kind("bool", _DT.DT_BOOL, "bool_val", np.bool_),
    Kind("uint16", _DT.DT_UINT16, "int_val", np.uint16),
    Kind("complex128", _DT.DT_COMPLEX128, "dcomplex_val", np.complex128),
    Kind("float16", _DT.DT_HALF, "half_val", np.float16, np.uint16),
    Kind("uint32", _DT.DT_UINT32, "uint32_val", np.uint32),
    Kind("uint64", _DT.DT_UINT64, "uint64_val", np.uint64),
    Kind("qint8", _DT.DT_QINT8, "int_val", _quantized("qint8", np.int8), np.int8),
    Kind("quint8", _DT.DT_QUINT8, "int_val", _quantized("quint8", np.uint8), np.uint8),
    Kind("qint16", _DT.DT_QINT16, "int_val", _quantized("qint16", np.int16), np.int16),
    Kind("quint16", _DT.DT_QUINT16, "int_val", _quantized("quint16", np.uint16), np.uint16),
    Kind("qint32", _DT.DT_QINT32, "int_val", _quantized("qint32", np.int32), np.int32),
    Kind("bfloat16", _DT.DT_BFLOAT16, "half_val", None, np.uint16),
    Kind("float8_e5m2", _DT.DT_FLOAT8_E5M2, "float8_val", None, np.uint8),
    Kind("float8_e4m3fn", _DT.DT_FLOAT8_E4M3FN, "float8_val", None, np.uint8),
    Kind("float8_e4m3fnuz", _DT.DT_FLOAT8_E4M3FNUZ, "float8_val", None, np.uint8),
    Kind("float8_e4m3b11fnuz", _DT.DT_FLOAT8_E4M3B11FNUZ, "float8_val", None, np.uint8),
    Kind("float8_e5m2fnuz", _DT.DT_FLOAT8_E5M2FNUZ, "float8_val", None, np.uint8),
    Kind("float4_e2m1fn", _DT.DT_FLOAT4_E2M1FN, "float8_val", None, np.uint8),
    Kind("int4", _DT.DT_INT4, "int_val", None, np.int8),
    Kind("uint4", _DT.DT_UINT4, "int_val", None, np.uint8),
    Kind("int2", _DT.DT_INT2, "int_val", None, np.int8),
    Kind("uint2", _DT.DT_UINT2, "int_val", None, np.uint8),
]
BY_NUMBER = {kind.number: kind for kind in _KINDS}
BY_NAME = {kind.name: kind for kind in _KINDS}


def type_name(number: int) -> str:
    """ "float32" for 1, "string" for 7, …; the DataType's own name where NumPy has none."""
    if number == _DT.DT_STRING:
        return "string"
    if number in BY_NUMBER:
        return BY_NUMBER[number].name
    return str(_DT.Name(number)) if number in _DT.values() else f"number {number}"


def numpy_types(kind: Kind) -> tuple[np.dtype[Any] | None, np.dtype[Any]]:
    """The type of the array (None: bfloat16 without ml_dtypes) and of what is stored, both of one size."""
    if kind.numpy is not None:
        numpy_type = np.dtype(kind.numpy)
        return numpy_type, np.dtype(kind.stored or kind.numpy).newbyteorder("<")
    stored = np.dtype(kind.stored).newbyteorder("<")
    try:
        import ml_dtypes
    except ImportError:
        if kind.name == "bfloat16":
            return None, stored
        raise InvalidInput(
            f"Tensors of {kind.name} need the package ml_dtypes: pip install ml_dtypes."
        ) from None
    return np.dtype(getattr(ml_dtypes, kind.name)), stored
