"""JSON as the stock server writes and reads it (RapidJSON's PrettyWriter and its error texts).

Numbers of type float are printed with six digits where those give the same float32 back, else with nine;
whole ones end in ".0"; NaN and Infinity are unquoted. Indentation is four spaces, and arrays of values
stand on one line in row form.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from pergola.serving.server.config.errors import BadRequest
from pergola.serving.wire.tensors import Array

_PARSE_ERRORS = (
    ("Expecting property name", "Missing a name for object member."),
    ("Expecting ':' delimiter", "Missing a colon after a name of object member."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid control character", "Invalid encoding in string."),
    ("Invalid \\u", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
    ("Extra data", "The document root must not be followed by other values."),
)


def parse(body: bytes, *, finite: bool = False) -> dict[str, Any]:
    """The JSON object in a request's body. Raises BadRequest with the stock server's text.

    finite: refuse numbers that no double holds, which takes twice the time. Else those with a point or an
    exponent come out infinite.
    """
    if not body:
        raise BadRequest(message="JSON Parse error: The document is empty")
    try:
        text = body.decode("utf-8-sig")
        document = json.loads(text, parse_float=_finite if finite else None)
    except json.JSONDecodeError as error:
        reason, offset = _explain(error), len(error.doc[: error.pos].encode())
        raise BadRequest(message=f"JSON Parse error: {reason} at offset: {offset}") from None
    except UnicodeDecodeError as error:
        raise BadRequest(
            message=f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from None
    except RecursionError:
        raise BadRequest(message="JSON Parse error: Terminate parsing: nested too deeply.") from None
    except ValueError:  # also numbers of thousands of digits
        raise too_big() from None
    if not isinstance(document, dict):
        raise BadRequest(message=f"JSON Value: {show(document)} Is not object")
    return document


def show(value: Any) -> str:
    """A JSON value as error texts print it."""
    if isinstance(value, float):
        return number(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"


def kind(value: Any) -> str:
    """RapidJSON's name for the type of a JSON value."""
    if value is None:
        return "Null"
    if value is True:
        return "True"
    if value is False:
        return "False"
    for python, word in ((dict, "Object"), (list, "Array"), (str, "String")):
        if isinstance(value, python):
            return word
    return "Number"


def number(value: float) -> str:
    """A double as the stock server prints it."""
    short = f"{value:g}"
    return _finish(short if math.isfinite(value) and float(short) == value else f"{value:.17g}", value)


def numbers(array: Array) -> list[str]:
    """The values of a float32 or float64 array, printed."""
    values = array.ravel().tolist()
    short = [f"{value:g}" for value in values]
    with np.errstate(over="ignore"):
        exact = np.array([float(text) for text in short], dtype=array.dtype) == array.ravel()
    digits = 9 if array.dtype == np.float32 else 17
    return [
        _finish(text if same else f"{value:.{digits}g}", value)
        for text, same, value in zip(short, exact.tolist(), values, strict=True)
    ]


def string(value: bytes) -> bytes:
    """A JSON string of bytes, which need not be UTF-8."""
    text = json.dumps(value.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    return text.encode("utf-8", "surrogateescape")


def error_body(message: str) -> bytes:
    """The body of every error."""
    return b'{\n    "error": ' + string(message.encode("utf-8", "replace")) + b"\n}"


def too_big() -> BadRequest:
    """For a number that no double holds."""
    return BadRequest(message="JSON Parse error: Number too big to be stored in double.")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _finish(text: str, value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return text if "." in text or "e" in text else text + ".0"


def _explain(error: json.JSONDecodeError) -> str:
    for start, reason in _PARSE_ERRORS:
        if error.msg.startswith(start):
            return reason
    if error.msg.startswith("Expecting ',' delimiter"):
        inside = _innermost(error.doc[: error.pos])
        return (
            "Missing a comma or } after an object member."
            if inside == "{"
            else "Missing a comma or ] after an array element."
        )
    return "Invalid value."


def _innermost(text: str) -> str:
    """The bracket that is open at the end of a valid prefix of JSON."""
    stack: list[str] = []
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "{[":
            stack.append(character)
        elif character in "}]" and stack:
            stack.pop()
    return stack[-1] if stack else ""
