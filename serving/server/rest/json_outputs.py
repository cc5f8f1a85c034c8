"""Answers to predict in the JSON of TF-Serving's REST API, laid out as RapidJSON's PrettyWriter does.

In row form each row stands on one line; in column form each value has a line. Strings of outputs whose
names end in "_bytes" become {"b64": text}.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import numpy as np

from pergola.serving.server.config.errors import BadRequest
from pergola.serving.server.rest.json_tensors import ROW
from pergola.serving.server.rest.json_text import numbers, string
from pergola.serving.wire.datatypes import data_type_of, tensorflow_name
from pergola.serving.wire.tensors import Array

_INDENT = b"    "
_WHOLE = (np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint32, np.uint64)


def write_predict(outputs: Mapping[str, Array], form: str) -> bytes:
    """The body of the answer to a predict request. form: ROW or COLUMN of
    serving/server/rest/json_tensors.py."""
    if not outputs:
        raise BadRequest(message="Cannot convert empty tensor map to JSON")
    return _rows(outputs) if form == ROW else _columns(outputs)


def _rows(outputs: Mapping[str, Array]) -> bytes:
    if not _num_rows(outputs):
        return b'{\n    "predictions": []\n}'
    several = len(outputs) > 1
    columns = [_row_texts(name, array, 3 if several else 2) for name, array in outputs.items()]
    if not several:
        return b'{\n    "predictions": [' + b", ".join(columns[0]) + b"\n    ]\n}"
    keys = [_INDENT * 3 + string(name.encode()) + b": " for name in outputs]
    items = [
        _INDENT * 2 + b"{\n" + b",\n".join(map(bytes.__add__, keys, texts)) + b"\n" + _INDENT * 2 + b"}"
        for texts in zip(*columns, strict=True)
    ]
    return b'{\n    "predictions": [\n' + b",\n".join(items) + b"\n    ]\n}"


def _num_rows(outputs: Mapping[str, Array]) -> int:
    """The number of rows, which row form needs to be the same in all outputs."""
    size = None
    for name, array in outputs.items():
        if array.ndim == 0:
            raise BadRequest(message=f"Tensor name: {name} has no shape information ")
        if size is not None and len(array) != size:
            raise BadRequest(
                message=f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
    return size or 0


def _row_texts(name: str, array: Array, depth: int) -> list[bytes]:
    """Each row of a tensor on one line. depth: brackets that are open around a row."""
    if not array.size:
        return [_empty(array.shape[1:])] * len(array)
    texts = _texts(name, array, depth + array.ndim - 1)
    for size in reversed(array.shape[1:]):
        texts = [b"[" + b", ".join(texts[i : i + size]) + b"]" for i in range(0, len(texts), size)]
    return texts


def _empty(shape: tuple[int, ...]) -> bytes:
    """A row without values, such as [[], []]."""
    if not shape or not shape[0]:
        return b"[]"
    return b"[" + b", ".join([_empty(shape[1:])] * shape[0]) + b"]"


def _columns(outputs: Mapping[str, Array]) -> bytes:
    if len(outputs) == 1:
        name, array = next(iter(outputs.items()))
        return b'{\n    "outputs": ' + _pretty(name, array, 1) + b"\n}"
    members = [
        _INDENT * 2 + string(name.encode()) + b": " + _pretty(name, array, 2)
        for name, array in outputs.items()
    ]
    return b'{\n    "outputs": {\n' + b",\n".join(members) + b"\n    }\n}"


def _pretty(name: str, array: Array, depth: int) -> bytes:
    """A tensor with one value per line, as PrettyWriter indents."""
    texts = iter(_texts(name, array, depth + array.ndim))

    def write(axis: int) -> bytes:
        if axis == array.ndim:
            return next(texts)
        if not array.shape[axis]:
            return b"[]"
        inner = _INDENT * (depth + axis + 1)
        items = b",\n".join([inner + write(axis + 1) for _ in range(array.shape[axis])])
        return b"[\n" + items + b"\n" + _INDENT * (depth + axis) + b"]"

    return write(0)


def _texts(name: str, array: Array, depth: int) -> list[bytes]:
    """Every value of a tensor as JSON. depth: brackets that are open around a value."""
    if array.dtype in (np.float32, np.float64):
        return [text.encode() for text in numbers(array)]
    if array.dtype == object:
        strings = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
        return [_base64(item, depth) if name.endswith("_bytes") else string(item) for item in strings]
    if array.dtype == np.bool_:
        return [b"true" if item else b"false" for item in array.ravel().tolist()]
    if array.dtype in _WHOLE:
        return [b"%d" % item for item in array.ravel().tolist()]
    dtype = tensorflow_name(data_type_of(array.dtype).number)
    raise BadRequest(message=f"Failed to write JSON value for tensor type: {dtype}")


def _base64(data: bytes, depth: int) -> bytes:
    text = b'"b64": "' + base64.b64encode(data) + b'"'
    return b"{\n" + _INDENT * (depth + 1) + text + b"\n" + _INDENT * depth + b"}"
