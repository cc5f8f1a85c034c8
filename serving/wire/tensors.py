"""NumPy arrays to TensorProto messages and back, without TensorFlow.

Works on any message class with TensorProto's fields, whichever package it was generated under.
The rules are Tensor::FromProto's (tensorflow/core/framework/tensor.cc): bytes in tensor_content must
fit the shape exactly; else the values are repeated from the last one, or zero when there are none.
Strings are object arrays of bytes. bfloat16 needs the package ml_dtypes, which TensorFlow brings.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DT_FLOAT, DT_DOUBLE, DT_INT32, DT_UINT8, DT_INT16, DT_INT8, DT_STRING = range(1, 8)
DT_COMPLEX64, DT_INT64, DT_BOOL = 8, 9, 10
DT_BFLOAT16, DT_UINT16, DT_COMPLEX128, DT_HALF = 14, 17, 18, 19
DT_UINT32, DT_UINT64 = 22, 23

MAX_RANK = 64  # NumPy's; TensorFlow's own is 254
MAX_FILLED_BYTES = 1 << 30  # a short list of values may be repeated up to this size

_PLAIN: dict[int, np.dtype[Any]] = {
    DT_FLOAT: np.dtype(np.float32),
    DT_DOUBLE: np.dtype(np.float64),
    DT_INT32: np.dtype(np.int32),
    DT_UINT8: np.dtype(np.uint8),
    DT_INT16: np.dtype(np.int16),
    DT_INT8: np.dtype(np.int8),
    DT_COMPLEX64: np.dtype(np.complex64),
    DT_INT64: np.dtype(np.int64),
    DT_BOOL: np.dtype(np.bool_),
    DT_UINT16: np.dtype(np.uint16),
    DT_COMPLEX128: np.dtype(np.complex128),
    DT_HALF: np.dtype(np.float16),
    DT_UINT32: np.dtype(np.uint32),
    DT_UINT64: np.dtype(np.uint64),
}

_ENUMS = {dtype: enum for enum, dtype in _PLAIN.items()}

NAMES = {
    DT_FLOAT: "float",
    DT_DOUBLE: "double",
    DT_INT32: "int32",
    DT_UINT8: "uint8",
    DT_INT16: "int16",
    DT_INT8: "int8",
    DT_STRING: "string",
    DT_COMPLEX64: "complex64",
    DT_INT64: "int64",
    DT_BOOL: "bool",
    DT_BFLOAT16: "bfloat16",
    DT_UINT16: "uint16",
    DT_COMPLEX128: "complex128",
    DT_HALF: "half",
    DT_UINT32: "uint32",
    DT_UINT64: "uint64",
}

_FIELDS = {
    DT_FLOAT: "float_val",
    DT_DOUBLE: "double_val",
    DT_INT32: "int_val",
    DT_UINT8: "int_val",
    DT_INT16: "int_val",
    DT_INT8: "int_val",
    DT_UINT16: "int_val",
    DT_STRING: "string_val",
    DT_COMPLEX64: "scomplex_val",
    DT_INT64: "int64_val",
    DT_BOOL: "bool_val",
    DT_BFLOAT16: "half_val",
    DT_HALF: "half_val",
    DT_COMPLEX128: "dcomplex_val",
    DT_UINT32: "uint32_val",
    DT_UINT64: "uint64_val",
}

# Fields whose packed wire form is the array's own memory: field number and the dtype of one element.
_PACKED: dict[str, tuple[int, np.dtype[Any]]] = {
    "float_val": (5, np.dtype("<f4")),
    "double_val": (6, np.dtype("<f8")),
    "scomplex_val": (9, np.dtype("<f4")),
    "dcomplex_val": (12, np.dtype("<f8")),
}

_FEW = 64  # up to here a Python loop is quicker than going through the wire form


class TensorError(ValueError):
    """A TensorProto that is no tensor, or an array that no TensorProto can hold."""


def name_of(enum: int) -> str:
    """TensorFlow's word for a data type, such as "float" for 1."""
    return NAMES.get(enum, f"unknown dtype enum ({enum})")


def dtype_of(enum: int) -> np.dtype[Any]:
    """The NumPy dtype for a DataType; object for strings. Raises TensorError for others."""
    if enum in _PLAIN:
        return _PLAIN[enum]
    if enum == DT_STRING:
        return np.dtype(object)
    if enum == DT_BFLOAT16:
        return _bfloat16()
    raise TensorError(f"Data type {enum} has no NumPy form; send one of {', '.join(sorted(NAMES.values()))}.")


def enum_of(array: Array) -> int:
    """The DataType of an array. Raises TensorError when TensorProto has none for it."""
    enum = _ENUMS.get(array.dtype)
    if enum is not None:
        return enum
    if array.dtype.kind in "OSU":
        return DT_STRING
    if array.dtype.name == "bfloat16":
        return DT_BFLOAT16
    native = array.dtype.newbyteorder("=")
    if native in _ENUMS:
        return _ENUMS[native]
    raise TensorError(f"Arrays of {array.dtype} cannot be sent. Convert to one of {sorted(NAMES.values())}.")


def to_array(proto: Any) -> Array:
    """The array that a TensorProto holds. Raises TensorError when its parts contradict each other.

    The array may be read-only and may share memory with bytes taken from the message.
    """
    shape = _shape_of(proto)
    dtype = dtype_of(proto.dtype)
    count = math.prod(shape)
    if proto.tensor_content:
        return _from_content(proto, dtype, count).reshape(shape)
    if proto.dtype == DT_STRING:
        return _strings(proto.string_val, count).reshape(shape)
    return _from_values(proto, dtype, count).reshape(shape)


def to_proto(array: Array, proto: Any, *, as_content: bool = False) -> Any:
    """Fill `proto`, a new TensorProto, from an array, and return it.

    as_content: put the values into tensor_content, which is quicker to read, and not into the field
    of their type. Strings always go to string_val.
    """
    enum = enum_of(array)
    proto.dtype = enum
    shape = proto.tensor_shape
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add().size = size
    if enum == DT_STRING:
        proto.string_val.extend(_encoded(array))
    elif as_content:
        proto.tensor_content = _little(array).tobytes()
    else:
        _fill(proto, _FIELDS[enum], array)
    return proto


def _bfloat16() -> np.dtype[Any]:
    try:
        import ml_dtypes
    except ImportError as error:
        raise TensorError("bfloat16 needs the package ml_dtypes: pip install ml_dtypes.") from error
    return np.dtype(ml_dtypes.bfloat16)


def _shape_of(proto: Any) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise TensorError("The shape has no rank.")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise TensorError(f"A tensor cannot have the shape {list(shape)[:MAX_RANK]}.")
    return shape


def _from_content(proto: Any, dtype: np.dtype[Any], count: int) -> Array:
    content = proto.tensor_content
    if proto.dtype == DT_STRING:
        return _objects(_split_strings(content, count))
    if len(content) != count * dtype.itemsize:
        raise TensorError(f"{len(content)} bytes of tensor_content for {count} values of {dtype}.")
    return np.frombuffer(content, dtype)


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Strings from tensor_content: all their lengths as varints, then all their bytes."""
    if count > len(content):
        raise TensorError(f"{len(content)} bytes of tensor_content cannot hold {count} strings.")
    sizes, at = [], 0
    for _ in range(count):
        size, at = _varint(content, at)
        sizes.append(size)
    if at + sum(sizes) != len(content):
        raise TensorError("The lengths of the strings do not fit tensor_content.")
    strings = []
    for size in sizes:
        strings.append(content[at : at + size])
        at += size
    return strings


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise TensorError("A varint is cut off.")


def _strings(values: Any, count: int) -> Array:
    given = list(values[:count])
    if len(given) < count:
        _check_filling(count, 8)
        given += [given[-1] if given else b""] * (count - len(given))
    return _objects(given)


def _objects(items: list[bytes]) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _from_values(proto: Any, dtype: np.dtype[Any], count: int) -> Array:
    field = _FIELDS[proto.dtype]
    values = _read(proto, field)
    if field == "half_val":
        values = values.astype(np.uint16).view(dtype)
    elif field in ("scomplex_val", "dcomplex_val"):
        values = values[: len(values) // 2 * 2].view(dtype)
    elif values.dtype != dtype:
        values = values.astype(dtype)
    if len(values) >= count:
        return values[:count]
    _check_filling(count, dtype.itemsize)
    filled = np.empty(count, dtype)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1] if len(values) else 0
    return filled


def _check_filling(count: int, itemsize: int) -> None:
    if count * itemsize > MAX_FILLED_BYTES:
        raise TensorError(f"{count} values were declared and only a few sent.")


def _read(proto: Any, field: str) -> Array:
    """All values of a repeated field, in the widest type that the field has."""
    values = getattr(proto, field)
    if field in _PACKED:
        number, dtype = _PACKED[field]
        if len(values) > _FEW:
            return _unpack(proto.SerializeToString(), number, dtype)
        return np.array(values, dtype)
    return np.array(values, np.uint64 if field == "uint64_val" else np.int64)


def _unpack(wire: bytes, number: int, dtype: np.dtype[Any]) -> Array:
    """The packed payload of one field of a serialised message, whose fields are known to be sound."""
    chunks, at, end = [], 0, len(wire)
    while at < end:
        tag, at = _varint(wire, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(wire, at)
            if tag >> 3 == number:
                chunks.append(np.frombuffer(wire, dtype, size // dtype.itemsize, at))
            at += size
        elif kind == 0:
            _, at = _varint(wire, at)
        else:
            at += 4 if kind == 5 else 8
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _fill(proto: Any, field: str, array: Array) -> None:
    if field == "half_val":
        getattr(proto, field).extend(_little(array).view(np.uint16).ravel().tolist())
    elif field in _PACKED and array.size:
        number, _ = _PACKED[field]
        data = _little(array).tobytes()
        proto.MergeFromString(_tag(number, len(data)) + data)
    else:
        getattr(proto, field).extend(array.ravel().tolist())


def _tag(number: int, size: int) -> bytes:
    header = bytearray(struct.pack("B", number << 3 | 2))
    while size >= 0x80:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)


def _little(array: Array) -> Array:
    """The same values, contiguous and little-endian."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array)


def _encoded(array: Array) -> list[bytes]:
    return [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel().tolist()]
