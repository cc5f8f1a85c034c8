"""Numbers and errors as RapidJSON writes them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pergola.serving.server.config.errors import BadRequest
from pergola.serving.server.rest.json_outputs import write_predict
from pergola.serving.server.rest.json_tensors import ROW
from pergola.serving.server.rest.json_text import kind, numbers, parse, show, string


@given(st.lists(st.floats(width=32), min_size=1))
def test_numbers_give_float32_back_exactly(values):
    array = np.array(values, np.float32)
    texts = numbers(array)
    read = np.array([float(text) for text in texts], np.float32)
    np.testing.assert_array_equal(read, array)
    assert all("." in t or "e" in t or t in ("NaN", "Infinity", "-Infinity") for t in texts)


@given(st.lists(st.floats(), min_size=1))
def test_numbers_give_float64_back_exactly(values):
    array = np.array(values)
    np.testing.assert_array_equal([float(text) for text in numbers(array)], array)


def test_numbers_are_as_short_as_the_stock_servers():
    values = np.array([0.2, 9000000, 0.00003, 16777216, 1 / 3, -0.0, 1], np.float32)
    assert numbers(values) == ["0.2", "9e+06", "3e-05", "16777216.0", "0.333333343", "-0.0", "1.0"]


@given(st.text())
def test_strings_are_json(text):
    assert json.loads(string(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")) == text


def test_strings_that_are_no_utf8_keep_their_bytes():
    assert string(b'\xff"\x00') == b'"\xff\\"\\u0000"'


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "The document is empty"),
        (b"{", "Missing a name for object member. at offset: 1"),
        (b'{"a"}', "Missing a colon after a name of object member. at offset: 4"),
        (b'{"a":1 "b"}', "Missing a comma or } after an object member. at offset: 7"),
        (b'{"a":[1 2]}', "Missing a comma or ] after an array element. at offset: 8"),
        (b'{"a":"b', "Missing a closing quotation mark in string."),
        (b'{"a":\xff}', "Invalid value. at offset: 5"),
        (b"nul", "Invalid value. at offset: 0"),
        (b'{"a":' + b"9" * 5000 + b"}", "Number too big"),
    ],
)
def test_parse_refuses_with_a_reason_and_a_place(body, text):
    with pytest.raises(BadRequest) as caught:
        parse(body)
    assert str(caught.value).startswith(f"JSON Parse error: {text}")


def test_show_and_kind_speak_of_values_as_rapidjson_does():
    values = [None, True, False, {"a": 1}, [], "x", 1, 1.0]
    assert [kind(value) for value in values] == [
        *("Null", "True", "False", "Object", "Array", "String", "Number", "Number")
    ]
    assert [show(value) for value in (None, 1.0, "ü", {"a": [1]})] == [
        "null",
        "1.0",
        '"ü"',
        '{\n    "a": [1]\n}',
    ]


def test_outputs_without_rows_are_an_empty_list():
    empty = {"x": np.zeros((0, 2), np.float32), "y": np.zeros(0, np.float32)}
    for outputs in (empty, {"x": empty["x"]}):
        assert write_predict(outputs, ROW) == b'{\n    "predictions": []\n}'
    with pytest.raises(BadRequest, match="inconsistent batch size: 0 expecting: 1"):
        write_predict({"x": np.zeros(1), "y": np.zeros(0)}, ROW)
