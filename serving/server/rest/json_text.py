"""JSON as the stock server writes and reads it (RapidJSON's PrettyWriter and its error texts).

Numbers of type float are printed with six digits where those give the same float32 back, else with nine;
whole ones end in ".0"; NaN and Infinity are unquoted. Indentation is four spaces, and arrays of values
stand on one line in row form.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from pergola.serving.server.config.errors import BadRequest, shortened
from pergola.serving.wire.tensors import Array

_PARSE_ERRORS = (
    ("Expecting property name", "Missing a name for object member."),
    ("Expecting ':' delimiter", "Missing a colon after a name of object member."),
    ("Unterminated string", "Missing a closing quotation mark in string."),
    ("Invalid control character", "Invalid encoding in string."),
    ("Invalid \\u", "Incorrect hex digit after \\u escape in string."),
    ("Invalid \\escape", "Invalid escape character in string."),
)

MAX_QUOTED = 256  # bytes of a request that an error quotes

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER_WORD = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")|(?P<sign>-?)(?P<word>NaN|Inf(?:inity)?)', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def parse(body: bytes, *, finite: bool = False) -> dict[str, Any]:
    """The JSON object at the start of a request's body. Raises BadRequest with the stock server's text.

    What follows the object is ignored, the first of doubled keys counts, and bytes that are not UTF-8 come
    out as surrogates (`to_bytes` gives them back).
    finite: refuse numbers that no double holds, which takes twice the time. Else those with a point or an
    exponent come out infinite.
    """
    text = body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    try:
        document = _document(text, finite)
    except json.JSONDecodeError as error:
        reason, offset = _explain(error), len(to_bytes(text[: error.pos]))
        raise BadRequest(message=f"JSON Parse error: {reason} at offset: {offset}") from None
    except RecursionError:
        raise BadRequest(message="JSON Parse error: Terminate parsing: nested too deeply.") from None
    except ValueError:  # also numbers of thousands of digits
        raise too_big() from None
    if not isinstance(document, dict):
        raise BadRequest(message=f"JSON Value: {show(document)} Is not object")
    return document


def to_bytes(text: str) -> bytes:
    """A text of a parsed document as the bytes that were sent."""
    return text.encode("utf-8", "surrogateescape")


def show(value: Any) -> str:
    """A JSON value as error texts print it: arrays on one line, at most 256 bytes."""
    return quote("".join(_first(_pieces(value, 0), MAX_QUOTED)))


def quote(text: str, limit: int = MAX_QUOTED) -> str:
    """At most the first `limit` bytes of what came."""
    return to_bytes(text)[:limit].decode("utf-8", "replace")


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


def number_text(value: float) -> str:
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
    return b'{\n    "error": ' + string(shortened(message).encode("utf-8", "replace")) + b"\n}"


def too_big() -> BadRequest:
    """For a number that no double holds."""
    return BadRequest(message="JSON Parse error: Number too big to be stored in double.")


def _document(text: str, finite: bool) -> Any:
    """The first document of a text. Raises what json does."""
    start = _SPACE.match(text).end()  # type: ignore[union-attr] # it matches everywhere
    if start == len(text):
        raise BadRequest(message="JSON Parse error: The document is empty")
    _check_surrogates(text)
    reader = json.JSONDecoder(object_pairs_hook=_first_of_each, parse_float=_finite if finite else None)
    try:
        return reader.raw_decode(text, start)[0]
    except json.JSONDecodeError:
        common = _NUMBER_WORD.sub(_common_word, text)
        if common == text:
            raise
        return reader.raw_decode(common, start)[0]


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else dict(reversed(pairs))


def _common_word(match: re.Match[str]) -> str:
    """The spelling of NaN and Infinity that Python reads."""
    if match["string"]:
        return match["string"]
    return "NaN" if match["word"] == "NaN" else f"{match['sign']}Infinity"


def _check_surrogates(text: str) -> None:
    """Refuse escapes of half a character. Raises BadRequest."""
    if not _SURROGATE.search(text):
        return
    for escape in _ESCAPE.finditer(text):
        if escape["half"]:
            offset = len(to_bytes(text[: escape.start()]))
            raise BadRequest(
                message=f"JSON Parse error: The surrogate pair in string is invalid. at offset: {offset}"
            )


def _pieces(value: Any, depth: int) -> Iterator[str]:
    """A JSON value in pieces, as PrettyWriter writes it with arrays on one line."""
    if isinstance(value, dict):
        inner = "    " * (depth + 1)
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{',' if number else ''}\n{inner}{json.dumps(key[:MAX_QUOTED], ensure_ascii=False)}: "
            yield from _pieces(item, depth + 1)
        yield "\n" + "    " * depth + "}" if value else "}"
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item, depth)
        yield "]"
    elif isinstance(value, float):
        yield number_text(value)
    elif isinstance(value, str):
        yield json.dumps(value, ensure_ascii=False) if len(value) < MAX_QUOTED else '"' + value[:MAX_QUOTED]
    else:
        yield json.dumps(value)


def _first(pieces: Iterator[str], size: int) -> Iterator[str]:
    """As many pieces as it takes for `size` characters."""
    for piece in pieces:
        yield piece
        size -= len(piece)
        if size <= 0:
            return


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
