"""NumPy arrays to TensorProto and back, without TensorFlow.

| TensorProto             | NumPy                                                                      |
|-------------------------|----------------------------------------------------------------------------|
| numbers, bool, complex  | the dtype of the same name                                                 |
| string                  | object array of bytes (str is sent as UTF-8)                               |
| quantized (qint8, …)    | the one-field dtype that TensorFlow uses: np.dtype([("qint8", np.int8)])   |
| bfloat16                | ml_dtypes' type where that package is installed, else float32 (exact)      |
| float8, float4, (u)int4, (u)int2 | ml_dtypes' type; refused where that package is missing            |

Works on any message class with TensorProto's fields: ours, and TensorFlow's own in the server. Values are in
`tensor_content` or in the repeated field of their type, where a shorter list stands for its last value
repeated and an empty one for zeros (Tensor::FromProto in tensorflow/core/framework/tensor.cc).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pergola.serving.wire.datatypes import (
    BY_NUMBER,
    STRING,
    DataType,
    TensorError,
    data_type_of,
    numpy_types,
    type_name,
)
from pergola.serving.wire.protos.tensor_pb2 import DT_STRING

__all__ = ["DT_STRING", "Array", "TensorError", "describe", "to_array", "to_proto"]

Array = np.ndarray[Any, np.dtype[Any]]

RAGGED = (
    "Got rows of different lengths. TF-Serving takes tensors whose rows are equally long: pad them, "
    "or send them one request a row."
)

MAX_RANK = 64  # NumPy's; TensorFlow's own is 254
MAX_FILLED_BYTES = 1 << 30  # a short list of values may be repeated up to this size

# Fields whose packed wire form is the array's own memory: field number and the dtype of one element.
_PACKED: dict[str, tuple[int, np.dtype[Any]]] = {
    "float_val": (5, np.dtype("<f4")),
    "double_val": (6, np.dtype("<f8")),
    "scomplex_val": (9, np.dtype("<f4")),
    "dcomplex_val": (12, np.dtype("<f8")),
}
# Those whose packed wire form is varints: field number.
_VARINTS = {
    "int_val": 7, "int64_val": 10, "bool_val": 11, "half_val": 13, "uint32_val": 16, "uint64_val": 17,
}  # fmt: skip
_SHORT = 1 << 14  # numbers below take one or two bytes
_FEW = 64  # up to here a Python loop is quicker than going through the wire form


def to_array(proto: Any, *, strict: bool = False) -> Array:
    """The array that a TensorProto holds; it may be read-only, and share memory with the message's bytes.

    strict: refuse more values than the shape has, which TensorFlow drops.
    Raises TensorError when the parts of the message contradict each other.
    """
    shape = _shape_of(proto)
    count = math.prod(shape)
    if proto.dtype == DT_STRING:
        return _strings(proto, count, strict).reshape(shape)
    dtype, stored = numpy_types(proto.dtype)
    if content := proto.tensor_content:
        if len(content) != count * stored.itemsize:
            raise TensorError(
                f"A tensor of {count} {type_name(proto.dtype)} has {len(content)} bytes of content, "
                f"expected {count * stored.itemsize}. The message is damaged."
            )
        flat = np.frombuffer(content, stored)
    else:
        flat = _sized(_field_values(proto, stored, strict), count, proto.dtype, strict)
    if dtype is None:  # bfloat16 is the upper half of a float32
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    elif dtype is not stored:
        flat = flat.view(dtype)
    return flat.reshape(shape)


def to_proto(array: Array, proto: Any, *, as_content: bool = False) -> Any:
    """Fill `proto`, an empty TensorProto, from an array, and return it.

    as_content: put the values into tensor_content, which is quicker to read than the field of their type.
    Strings always go to string_val. Raises TensorError for arrays that no TensorProto can hold.
    """
    return fill(proto, array, data_type_of(array.dtype), as_content)


def describe(tensor: Any) -> str:
    """ "uint8 (2, 28, 28, 1)", for messages."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    return f"{type_name(tensor.dtype)} ({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _shape_of(proto: Any) -> tuple[int, ...]:
    if proto.tensor_shape.unknown_rank:
        raise TensorError("A tensor came without a shape.")
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    if len(shape) > MAX_RANK:
        raise TensorError(f"A tensor declares {len(shape)} dimensions, more than {MAX_RANK}.")
    if shape and min(shape) < 0:
        raise TensorError(f"A tensor declares shape {list(shape)}: sizes cannot be negative.")
    return shape


def _strings(proto: Any, count: int, strict: bool) -> Array:
    content = proto.tensor_content
    values = _split_strings(content, count) if content else list(proto.string_val)
    array = np.empty(len(values), object)
    array[:] = values
    return _sized(array, count, DT_STRING, strict)


def _split_strings(content: bytes, count: int) -> list[bytes]:
    """Strings from tensor_content: all their lengths as varints, then all their bytes."""
    sizes, at = [], 0
    if count > len(content):
        raise TensorError(f"A tensor of {count} strings ends in its lengths. The message is damaged.")
    for _ in range(count):
        size, at = _varint(content, at)
        sizes.append(size)
    if at + sum(sizes) != len(content):
        raise TensorError(
            f"A tensor of {count} strings has {len(content) - at} bytes, not {sum(sizes)}. It is damaged."
        )
    strings = []
    for size in sizes:
        strings.append(content[at : at + size])
        at += size
    return strings


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise TensorError("A tensor of strings ends in its lengths. The message is damaged.")


def _field_values(proto: Any, stored: np.dtype[Any], strict: bool) -> Array:
    """All values of the repeated field of the tensor's type."""
    kind = BY_NUMBER[proto.dtype]
    values = getattr(proto, kind.field)
    if kind.field == "float8_val":
        return np.frombuffer(values, stored)
    if kind.field in _VARINTS:
        if len(values) > _FEW and min(values[:_FEW]) >= 0 and max(values[:_FEW]) < _SHORT:
            payload = _unpack(proto.SerializeToString(), _VARINTS[kind.field], np.dtype(np.uint8))
            if (numbers := _from_short_varints(payload)) is not None:
                return numbers.astype(stored)
        return np.array(values, np.uint64 if kind.field == "uint64_val" else np.int64).astype(stored)
    number, dtype = _PACKED[kind.field]
    if len(values) > _FEW:
        array = _unpack(proto.SerializeToString(), number, dtype)
    else:
        array = np.array(values, dtype)
    if stored.kind != "c":
        return array
    if strict and len(array) % 2:
        raise TensorError(f"A tensor of {kind.name} has {len(array)} parts, expected pairs. It is damaged.")
    return array[: len(array) // 2 * 2].view(stored)


def _sized(given: Array, count: int, number: int, strict: bool) -> Array:
    """The first `count` of the values; the last one is repeated where there are fewer."""
    if len(given) > count and strict:
        raise TensorError(
            f"A tensor of {count} {type_name(number)} has {len(given)} values. The message is damaged."
        )
    if len(given) >= count:
        return given[:count]
    if count * given.itemsize > MAX_FILLED_BYTES:
        raise TensorError(
            f"A tensor declares {count} values of {type_name(number)} and has {len(given)}: "
            "over the limit of 1 GiB for repeated values."
        )
    filled = np.empty(count, given.dtype)
    filled[: len(given)] = given
    filled[len(given) :] = given[-1] if len(given) else b"" if number == DT_STRING else 0
    return filled


def _unpack(wire: bytes, number: int, dtype: np.dtype[Any]) -> Array:
    """The packed payload of one field of a serialized message, whose fields are known to be valid."""
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


def _from_short_varints(payload: Array) -> Array | None:
    """uint64 (values,): the numbers of a packed field, uint8 (bytes,), which is known to be valid.

    A byte's lower seven bits are part of a number, the lowest first; its upper bit says that another follows.
    None when one has more than two bytes: protobuf's own loop is as quick for those.
    """
    ends = np.flatnonzero(payload < 0x80)
    if len(ends) == len(payload):
        return payload.astype(np.uint64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts
    if sizes.max() > 1:
        return None
    low = (payload[starts] & 0x7F).astype(np.uint64)
    return low | (payload[ends].astype(np.uint64) << np.uint64(7)) * sizes.astype(np.uint64)


def fill(proto: Any, array: Array, kind: DataType, as_content: bool) -> Any:
    """As to_proto, for an array whose data type is known (bfloat16 may come as its bits, uint16)."""
    proto.dtype = kind.number
    shape = proto.tensor_shape
    shape.SetInParent()
    for size in array.shape:
        shape.dim.add().size = size
    if kind is STRING:
        proto.string_val.extend(
            [item if type(item) is bytes else _bytes_of(item) for item in array.ravel().tolist()]
        )
        return proto
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if as_content:
        proto.tensor_content = array.tobytes()
    elif kind.field == "float8_val":
        proto.float8_val = array.tobytes()
    elif kind.field in _PACKED:
        if data := array.tobytes():
            proto.MergeFromString(_header(_PACKED[kind.field][0], len(data)) + data)
    else:
        values = array.view(kind.stored) if kind.stored else array
        getattr(proto, kind.field).extend(values.ravel().tolist())
    return proto


def _header(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited field."""
    header = bytearray([number << 3 | 2])
    while size >= 0x80:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list | tuple | np.ndarray):
        raise TensorError(RAGGED)
    raise TensorError(
        f"Cannot send an object of type {type(value).__name__}. Expected numbers, bytes or text in an array."
    )
