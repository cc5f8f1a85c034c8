"""Predict requests in the JSON of TF-Serving's REST API, to arrays. Answers:
serving/server/rest/json_outputs.py.

Row form:     {"signature_name": s, "instances": [row, …]}   -> {"predictions": [row, …]}
Column form:  {"signature_name": s, "inputs": value}         -> {"outputs": value}

Checks, order and texts follow json_tensor.cc of the stock server.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pergola.serving.server.config.errors import (
    BadRequest,
    NotImplementedHere,
    ServingError,
    TensorParsingError,
)
from pergola.serving.server.rest import json_text
from pergola.serving.server.rest.json_text import kind, show
from pergola.serving.wire.datatypes import numpy_dtype, tensorflow_name
from pergola.serving.wire.protos.tensor_pb2 import (
    DT_BOOL,
    DT_DOUBLE,
    DT_FLOAT,
    DT_INT8,
    DT_INT16,
    DT_INT32,
    DT_INT64,
    DT_STRING,
    DT_UINT8,
    DT_UINT32,
    DT_UINT64,
)
from pergola.serving.wire.tensors import MAX_RANK, Array

ROW, COLUMN = "row", "column"

_INT32 = (-(2**31), 2**31 - 1)
_BOUNDS = {
    DT_INT32: _INT32,
    DT_INT16: _INT32,  # the stock server checks these against 32 bits and then wraps
    DT_INT8: _INT32,
    DT_UINT8: _INT32,
    DT_INT64: (-(2**63), 2**63 - 1),
    DT_UINT32: (0, 2**32 - 1),
    DT_UINT64: (0, 2**64 - 1),
}
_FLOATS = (DT_FLOAT, DT_DOUBLE)


class PredictBody(NamedTuple):
    """A predict request's body: signature, tensors by alias, and the form the answer must have."""

    signature: str
    inputs: dict[str, Array]
    form: str


def read_predict(body: bytes, types: Callable[[str], Mapping[str, int]]) -> PredictBody:
    """Read a predict request. `types(signature)` gives the DataType of each input, by alias."""
    document = json_text.parse(body)
    signature = read_signature(document)
    dtypes = types(signature)
    if not dtypes:
        raise BadRequest(message=f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    if "instances" in document:
        if "inputs" in document:
            raise _bad(
                document,
                "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
            )
        rows = document["instances"]
        if not isinstance(rows, list):
            raise _bad(document, "Expecting 'instances' to be an list/array")
        if not rows:
            raise _bad(document, "No values in 'instances' array")
        return _checked(body, PredictBody(signature, _rows(rows, dtypes), ROW))
    if "inputs" in document:
        return _checked(body, PredictBody(signature, _columns(document["inputs"], dtypes), COLUMN))
    raise BadRequest(message="Missing 'inputs' or 'instances' key")


def _checked(body: bytes, request: PredictBody) -> PredictBody:
    """The request, unless a value is infinite that was not written so."""
    if any(array.dtype.kind == "f" and np.isinf(array).any() for array in request.inputs.values()):
        json_text.parse(body, finite=True)
    return request


def read_signature(document: Mapping[str, Any]) -> str:
    """The signature a request names, "" for none."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise BadRequest(
            message=f"JSON Value: {show(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return name


def decode_base64(value: Any) -> bytes:
    """The bytes of {"b64": text}."""
    if not is_base64(value):
        raise BadRequest(message=f"JSON Value: {show(value)} not formatted correctly for base64 data")
    data = b"".join(json_text.to_bytes(value["b64"]).split())
    text = data.rstrip(b"=.")
    missing = -len(text) % 4
    if len(data) not in (len(text), len(text) + missing):
        raise BadRequest(message="Unable to base64 decode")
    try:
        return base64.b64decode(text + b"=" * missing, validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(message="Unable to base64 decode") from None


def is_base64(value: Any) -> bool:
    """Whether a JSON value is {"b64": text}."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _bad(value: Any, text: str) -> BadRequest:
    return BadRequest(message=f"JSON Value: {show(value)} {text}")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _rows(rows: list[Any], dtypes: Mapping[str, int]) -> dict[str, Array]:
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise BadRequest(
            message="instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if _is_object(rows[0]):
        return _object_rows(rows, dtypes)
    name, dtype = next(iter(dtypes.items()))
    _shape(name, rows, 0)
    quick = _quick(rows, dtype)
    if quick is not None:
        return {name: quick}
    column = _Column(name, dtype)
    for number, row in enumerate(rows):
        if _is_object(row):
            raise BadRequest(message=f"Expecting value/list but got object at item {number} of input list")
        with _Place(f"Failed to process element: {number} of 'instances' list. Error: "):
            column.add(row)
    return {name: column.array()}


def _object_rows(rows: list[Any], dtypes: Mapping[str, int]) -> dict[str, Array]:
    columns = {name: _Column(name, dtype) for name, dtype in dtypes.items()}
    for number, row in enumerate(rows):
        if not _is_object(row):
            raise BadRequest(message=f"Expecting object but got list at item {number} of input list")
        for key, value in row.items():
            shown = json_text.quote(key, json_text.MAX_QUOTED // 2)
            with _Place(f"Failed to process element: {number} key: {shown} of 'instances' list. Error: "):
                if key not in columns:
                    raise BadRequest(message=f"JSON object: does not have named input: {shown}")
                columns[key].add(value)
        if row.keys() != columns.keys():
            raise BadRequest(
                message=f"Failed to process element: {number} of 'instances' list. JSON object: {show(row)} "
                f"keys must be equal to: {','.join(sorted(columns))}"
            )
    return {name: column.array() for name, column in columns.items()}


def _columns(value: Any, dtypes: Mapping[str, int]) -> dict[str, Array]:
    if not _is_object(value):
        if len(dtypes) > 1:
            raise BadRequest(
                message="inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        name, dtype = next(iter(dtypes.items()))
        return {name: _tensor(name, value, dtype)}
    for name in dtypes:
        if name not in value:
            raise BadRequest(message=f"Missing named input: {name} in 'inputs' object.")
    return {name: _tensor(name, value[name], dtype) for name, dtype in dtypes.items()}


class _Place:
    """Prefixes the text of an error with its location."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ServingError):
            code = "UNIMPLEMENTED" if isinstance(error, NotImplementedHere) else "INVALID_ARGUMENT"
            raise BadRequest(message=f"{self._prefix}{code}: {error}") from None


class _Column:
    """The values of one input, row by row, all of the same shape."""

    def __init__(self, name: str, dtype: int) -> None:
        self.name = name
        self._dtype = dtype
        self._values: list[Any] = []  # of rows that are single values
        self._parts: list[Array] = []  # rows that are lists
        self._rows = 0
        self._shape: tuple[int, ...] | None = None

    def add(self, value: Any) -> None:
        shape = _shape(self.name, value, 1)
        if shape:
            self._parts.append(_dense(value, shape, self._dtype))
        else:
            self._values.append(_value(value, self._dtype))
        self._check(shape)
        self._rows += 1

    def _check(self, shape: tuple[int, ...]) -> None:
        if self._shape is None:
            self._shape = shape
        size, expected = math.prod(shape), math.prod(self._shape)
        if size != expected:
            raise BadRequest(message=f"Expecting tensor size: {expected} but got: {size}")
        if shape != self._shape:
            raise BadRequest(
                message=f"Expecting shape {_show_shape(self._shape)} but got: {_show_shape(shape)}"
            )

    def array(self) -> Array:
        shape = (self._rows, *(self._shape or ()))
        if self._parts:
            return np.concatenate(self._parts).reshape(shape)
        return _array(self._values, self._dtype, shape)


def _tensor(name: str, value: Any, dtype: int) -> Array:
    return _dense(value, _shape(name, value, 0), dtype)


def _dense(value: Any, shape: tuple[int, ...], dtype: int) -> Array:
    quick = _quick(value, dtype)
    if quick is not None:
        return quick
    values: list[Any] = []
    _fill(value, 0, shape, dtype, values)
    return _array(values, dtype, shape)


def _quick(value: Any, dtype: int) -> Array | None:
    """A dense array of numbers without a Python loop; None when the slower path must check the values."""
    if not isinstance(value, list) or dtype not in (*_FLOATS, *_BOUNDS):
        return None
    first: Any = value
    while isinstance(first, list) and first:
        first = first[0]
    if type(first) not in (int, float) or _holds_odd(value):
        return None
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        return None
    if array.dtype == np.int64 and dtype in _BOUNDS:
        low, high = _BOUNDS[dtype]
        return array.astype(numpy_dtype(dtype)) if array.min() >= low and array.max() <= high else None
    if array.dtype in (np.int64, np.float64) and dtype in _FLOATS:
        with np.errstate(over="ignore"):  # 1e39 is infinite as a float
            return array.astype(numpy_dtype(dtype))
    return None


def _holds_odd(value: list[Any]) -> bool:
    """Whether nested lists hold anything but numbers: NumPy would convert true to 1."""
    stack = [value]
    while stack:
        items = stack.pop()
        types = set(map(type, items))
        if types == {list}:
            stack.extend(items)
        elif not types <= {int, float}:
            return True
    return False


def _shape(name: str, value: Any, outer: int) -> tuple[int, ...]:
    """The dimensions of nested lists, by their first elements. outer: dimensions around them."""
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    if len(shape) + outer > MAX_RANK:
        raise TensorParsingError(alias=name)
    return tuple(shape)


def _show_shape(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _fill(value: Any, level: int, shape: tuple[int, ...], dtype: int, values: list[Any]) -> None:
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise BadRequest(
                message=f"JSON Value: {show(value)} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {rank}"
            )
        values.append(_value(value, dtype))
        return
    if level >= rank:
        raise BadRequest(message=f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise BadRequest(
            message=f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for item in value:
        _fill(item, level + 1, shape, dtype, values)


def _value(value: Any, dtype: int) -> Any:
    """One JSON value as `dtype`, or the stock server's error."""
    if isinstance(value, dict):
        if dtype == DT_STRING:
            return decode_base64(value)
        raise _type_error(value, dtype)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype in _FLOATS:
        if not number:
            raise _type_error(value, dtype)
        return _float(value)
    if dtype in _BOUNDS:
        low, high = _BOUNDS[dtype]
        if not number or isinstance(value, float) or not low <= value <= high:
            raise _type_error(value, dtype)
        return value
    if dtype == DT_STRING:
        if not isinstance(value, str):
            raise _type_error(value, dtype)
        return json_text.to_bytes(value)
    if dtype == DT_BOOL:
        if not isinstance(value, bool):
            raise _type_error(value, dtype)
        return value
    raise NotImplementedHere(
        message=f"Conversion of JSON Value: {show(value)} to type: {tensorflow_name(dtype)}"
    )


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise json_text.too_big() from None


def _type_error(value: Any, dtype: int) -> BadRequest:
    expected = tensorflow_name(dtype)
    return BadRequest(
        message=f"JSON Value: {show(value)} Type: {kind(value)} is not of expected type: {expected}"
    )


def _array(values: list[Any], dtype: int, shape: tuple[int, ...]) -> Array:
    if dtype == DT_STRING:
        array = np.empty(len(values), object)
        array[:] = values
        return array.reshape(shape)
    if dtype in (DT_INT8, DT_UINT8, DT_INT16):
        return np.array(values, np.int64).astype(numpy_dtype(dtype)).reshape(shape)
    return np.array(values, numpy_dtype(dtype)).reshape(shape)
