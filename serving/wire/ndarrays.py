"""NumPy arrays to TensorProto and back, without TensorFlow.

| TensorProto             | NumPy                                                                      |
|-------------------------|----------------------------------------------------------------------------|
| numbers, bool, complex  | the dtype of the same name                                                 |
| string                  | object array of bytes (str is sent as UTF-8)                               |
| quantized (qint8, …)    | the one-field dtype that TensorFlow uses: np.dtype([("qint8", np.int8)])   |
| bfloat16                | ml_dtypes' type where that package is installed, else float32 (exact)      |
| float8, float4, (u)int4, (u)int2 | ml_dtypes' type; refused where that package is missing            |

bfloat16 is sent from ml_dtypes' type, or from any float with `to_tensor(values, "bfloat16")`. Python
numbers become float32 and int32 (int64 where they need it), as TensorFlow has it; arrays keep their dtype.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from pergola.serving.client.errors import InvalidInput
from pergola.serving.wire.datatypes import BY_NAME, BY_NUMBER, Kind, numpy_types, type_name
from pergola.serving.wire.protos import tensor_pb2

MAX_BYTES = 2**32  # of one decoded tensor; a few bytes can declare any size

_DT = tensor_pb2.DataType


def to_tensor(values: Any, dtype: str | None = None) -> tensor_pb2.TensorProto:
    """A TensorProto of an array, a number, bytes, a text, or nested lists of them.

    dtype: "float32", "bfloat16", "qint8", "string", …; by default that of the values.
    Raises InvalidInput for rows of different lengths and for objects that are no tensor.

    >>> to_tensor([[1.0, 2.0]]).tensor_shape.dim[1].size
    2
    """
    if isinstance(values, tensor_pb2.TensorProto):
        return values
    array = _as_array(values)
    if array.dtype.kind in "OSUT" or dtype == "string":
        return _string_tensor(array)
    array, kind = _typed(array, dtype or _name_of(array.dtype))
    if sys.byteorder == "big" or array.dtype.byteorder == ">":  # the wire is little endian
        array = array.astype(array.dtype.newbyteorder("<"))
    return tensor_pb2.TensorProto(
        dtype=kind.number, tensor_shape=_shape_proto(array.shape), tensor_content=array.tobytes()
    )


def to_array(tensor: tensor_pb2.TensorProto) -> np.ndarray[Any, Any]:
    """The array of a TensorProto, writable; strings as an object array of bytes.

    Values may be in `tensor_content` or in the field of their type, where a shorter list stands for
    its last value repeated and an empty one for zeros. Raises InvalidInput for what is no tensor.
    """
    shape = _shape(tensor)
    count = math.prod(shape)
    if tensor.dtype == _DT.DT_STRING:
        return _strings(tensor, count).reshape(shape)
    kind = BY_NUMBER.get(tensor.dtype)
    if kind is None:
        raise InvalidInput(f"Cannot make an array of a tensor of type {type_name(tensor.dtype)}.")
    numpy_type, stored = numpy_types(kind)
    if count * stored.itemsize > MAX_BYTES:
        raise InvalidInput(f"A tensor declares shape {list(shape)} of {kind.name}: over the limit of 4 GiB.")
    if tensor.tensor_content:
        flat = _content(tensor.tensor_content, stored, count, kind)
    else:
        flat = _listed(getattr(tensor, kind.field), stored, count, kind)
    return _widened(flat, numpy_type, kind).reshape(shape)


def describe(tensor: tensor_pb2.TensorProto) -> str:
    """ "uint8 (2, 28, 28, 1)", for messages."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    return f"{type_name(tensor.dtype)} ({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"


def _as_array(values: Any) -> np.ndarray[Any, Any]:
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, bytes | bytearray | memoryview):
        return _objects(bytes(values))
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InvalidInput(_RAGGED) from error
    if array.dtype.kind == "S":  # NumPy cuts trailing zero bytes off
        return _objects(values)
    if isinstance(values, np.generic) or hasattr(values, "__array__"):
        return array
    return _python_numbers(array, values)


_RAGGED = (
    "Got rows of different lengths. TF-Serving takes tensors whose rows are equally long: pad them, "
    "or send them one request a row."
)


def _objects(values: Any) -> np.ndarray[Any, Any]:
    """Nested lists of bytes as an object array that keeps every byte."""
    shape = np.asarray(values).shape
    array = np.empty(shape, dtype=object)
    if shape == ():
        array[()] = values
    else:
        array[...] = values
    return array


def _python_numbers(array: np.ndarray[Any, Any], values: Any) -> np.ndarray[Any, Any]:
    """As TensorFlow has it: Python's floats are float32, its integers int32 where they fit."""
    if _holds_numpy(values):
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64 and (array.size == 0 or abs(array).max() < 2**31):
        return array.astype(np.int32)
    return array


def _holds_numpy(values: Any) -> bool:
    while isinstance(values, list | tuple) and values:
        values = values[0]
    return isinstance(values, np.generic | np.ndarray)


def _name_of(dtype: np.dtype[Any]) -> str:
    if dtype.names is not None and len(dtype.names) == 1:
        return dtype.names[0]
    return dtype.newbyteorder("=").name


def _typed(array: np.ndarray[Any, Any], name: str) -> tuple[np.ndarray[Any, Any], Kind]:
    kind = BY_NAME.get(name)
    if kind is None:
        raise InvalidInput(
            f"Cannot send an array of {array.dtype}. Convert it to one of string, {', '.join(BY_NAME)}."
        )
    if name == _name_of(array.dtype):
        return array, kind
    if kind.name == "bfloat16":
        return _bfloat16_bits(array), kind
    return array.astype(numpy_types(kind)[0]), kind


def _bfloat16_bits(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The upper half of a float32, rounded to the nearest even one; what is not a number stays that."""
    floats = np.ascontiguousarray(array, dtype=np.float32)
    bits = floats.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(floats), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _content(raw: bytes, stored: np.dtype[Any], count: int, kind: Kind) -> np.ndarray[Any, Any]:
    if len(raw) != count * stored.itemsize:
        raise InvalidInput(
            f"A tensor of {count} {kind.name} has {len(raw)} bytes of content, "
            f"wanted {count * stored.itemsize}. The answer is damaged."
        )
    return np.frombuffer(raw, dtype=stored).copy()


def _listed(values: Any, stored: np.dtype[Any], count: int, kind: Kind) -> np.ndarray[Any, Any]:
    if kind.field == "float8_val":
        given = np.frombuffer(values, dtype=stored)
    elif kind.field in ("scomplex_val", "dcomplex_val"):
        parts = np.array(values, dtype=np.float32 if kind.name == "complex64" else np.float64)
        if len(parts) % 2:
            raise InvalidInput(
                f"A tensor of {kind.name} has {len(parts)} parts, wanted pairs. It is damaged."
            )
        given = parts.view(stored)
    else:
        given = np.array(values, dtype=np.int64 if kind.stored else stored).astype(stored)
    return _filled(given, count, np.zeros(1, stored), kind.name)


def _filled(
    given: np.ndarray[Any, Any], count: int, nothing: np.ndarray[Any, Any], name: str
) -> np.ndarray[Any, Any]:
    if len(given) > count:
        raise InvalidInput(f"A tensor of {count} {name} has {len(given)} values. The answer is damaged.")
    if len(given) == count:
        return given.copy() if not given.flags.writeable else given
    last = given[-1:] if len(given) else nothing
    return np.concatenate([given, np.repeat(last, count - len(given))])


def _widened(
    flat: np.ndarray[Any, Any], numpy_type: np.dtype[Any] | None, kind: Kind
) -> np.ndarray[Any, Any]:
    if numpy_type is None:
        return (flat.astype(np.uint32) << 16).view(np.float32)
    if kind.numpy is not None and kind.stored is None:
        return flat.astype(numpy_type, copy=False)
    return flat.view(numpy_type)


def _string_tensor(array: np.ndarray[Any, Any]) -> tensor_pb2.TensorProto:
    values = [_bytes_of(value) for value in array.ravel().tolist()]
    return tensor_pb2.TensorProto(
        dtype=_DT.DT_STRING, tensor_shape=_shape_proto(array.shape), string_val=values
    )


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list | tuple | np.ndarray):
        raise InvalidInput(_RAGGED)
    raise InvalidInput(
        f"Cannot send an object of type {type(value).__name__}. Wanted numbers, bytes or text in an array."
    )


def _strings(tensor: tensor_pb2.TensorProto, count: int) -> np.ndarray[Any, Any]:
    if count * 8 > MAX_BYTES:
        raise InvalidInput(f"A tensor declares {count} strings: over the limit of 4 GiB.")
    values = list(_packed(tensor.tensor_content, count) if tensor.tensor_content else tensor.string_val)
    given = np.empty(len(values), dtype=object)
    given[:] = values
    nothing = np.empty(1, dtype=object)
    nothing[0] = b""
    return _filled(given, count, nothing, "strings")


def _packed(content: bytes, count: int) -> Iterator[bytes]:
    """Strings of a `tensor_content`: all lengths as varints, then all bytes (what a server sends with
    --enable_serialization_as_tensor_content)."""
    lengths, at = [], 0
    try:
        for _ in range(count):
            length, shift = 0, 0
            while content[at] & 0x80:
                length |= (content[at] & 0x7F) << shift
                at, shift = at + 1, shift + 7
            lengths.append(length | content[at] << shift)
            at += 1
    except IndexError:
        raise InvalidInput(
            f"A tensor of {count} strings ends in its lengths. The answer is damaged."
        ) from None
    if at + sum(lengths) != len(content):
        raise InvalidInput(
            f"A tensor of {count} strings has {len(content) - at} bytes, not {sum(lengths)}. It is damaged."
        )
    for length in lengths:
        yield content[at : at + length]
        at += length


def _shape(tensor: tensor_pb2.TensorProto) -> tuple[int, ...]:
    if tensor.tensor_shape.unknown_rank:
        raise InvalidInput("A tensor came without a shape.")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise InvalidInput(f"A tensor declares shape {list(shape)}: sizes cannot be negative.")
    return shape


def _shape_proto(shape: tuple[int, ...]) -> tensor_pb2.TensorShapeProto:
    return tensor_pb2.TensorShapeProto(dim=[tensor_pb2.TensorShapeProto.Dim(size=size) for size in shape])
