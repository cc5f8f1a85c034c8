"""TensorProto and arrays, held against TensorFlow's own conversions."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as shapes
from tensorflow.core.framework.tensor_pb2 import TensorProto

from pergola.serving.wire.datatypes import data_type_of, tensorflow_name
from pergola.serving.wire.tensors import MAX_FILLED_BYTES, TensorError, to_array, to_proto
from tests.support.models import ECHOED

KINDS = [tf.as_dtype(name) for name in ECHOED]
NUMERIC = [kind.as_numpy_dtype for kind in KINDS if kind != tf.string and kind != tf.bfloat16]


@given(array=st.sampled_from(NUMERIC).flatmap(
    lambda dtype: shapes.arrays(dtype, shapes.array_shapes(min_dims=0, max_side=70, min_side=0, max_dims=3))
))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_arrays_survive_both_ways_and_tensorflow_agrees(array):
    for as_content in (False, True):
        proto = to_proto(array, TensorProto(), as_content=as_content)
        np.testing.assert_array_equal(to_array(proto), array)
        np.testing.assert_array_equal(tf.make_ndarray(proto), array)
    np.testing.assert_array_equal(to_array(tf.make_tensor_proto(array)), array)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_enum_and_name_are_tensorflows(kind):
    array = np.zeros(2, kind.as_numpy_dtype)
    assert data_type_of(array.dtype).number == kind.as_datatype_enum
    assert tensorflow_name(kind.as_datatype_enum) == kind.name.replace("float16", "half").replace(
        "bhalf", "bfloat16"
    ).replace("float32", "float").replace("float64", "double")


def test_bfloat16_survives():
    array = np.arange(5).astype(tf.bfloat16.as_numpy_dtype)
    for as_content in (False, True):
        proto = to_proto(array, TensorProto(), as_content=as_content)
        np.testing.assert_array_equal(to_array(proto), array)
        np.testing.assert_array_equal(tf.make_ndarray(proto), array)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_strings_survive(items):
    array = np.array([*items, b"x"], object)
    assert to_array(to_proto(array, TensorProto())).tolist() == array.tolist()


def test_strings_in_content_are_read_as_tensorflow_reads_them():
    words = [b"", b"a" * 200, b"\xff"]
    proto = TensorProto(dtype=7, tensor_content=b"\x00\xc8\x01\x01" + b"".join(words))
    proto.tensor_shape.dim.add(size=3)
    assert to_array(proto).tolist() == words
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        assert session.run(tf.constant(words)).tolist() == words


def test_other_byte_orders_and_layouts_are_sent_right():
    for array in (np.arange(6, dtype=">f4").reshape(2, 3), np.arange(6.0).reshape(2, 3).T):
        np.testing.assert_array_equal(to_array(to_proto(array, TensorProto())), array)


def test_few_values_are_repeated_and_none_are_zeros():
    proto = TensorProto(dtype=3, int_val=[4, 5])
    proto.tensor_shape.dim.add(size=4)
    assert to_array(proto).tolist() == [4, 5, 5, 5]
    del proto.int_val[:]
    assert to_array(proto).tolist() == [0, 0, 0, 0]


def damaged():
    too_short = TensorProto(dtype=1, tensor_content=b"123")
    no_rank = TensorProto(dtype=1)
    no_rank.tensor_shape.unknown_rank = True
    negative = TensorProto(dtype=1)
    negative.tensor_shape.dim.add(size=-1)
    bomb = TensorProto(dtype=1, float_val=[1.0])
    bomb.tensor_shape.dim.add(size=MAX_FILLED_BYTES)
    overflow = TensorProto(dtype=2, double_val=[1.0])
    for _ in range(9):
        overflow.tensor_shape.dim.add(size=2**60)
    string_bomb = TensorProto(dtype=7, tensor_content=b"\x01a")
    string_bomb.tensor_shape.dim.add(size=2**40)
    cut = TensorProto(dtype=7, tensor_content=b"\x80")
    cut.tensor_shape.dim.add(size=1)
    deep = TensorProto(dtype=1)
    for _ in range(300):
        deep.tensor_shape.dim.add(size=1)
    unknown, resource, no_type = TensorProto(dtype=999), TensorProto(dtype=20), TensorProto()
    return [too_short, no_rank, negative, bomb, overflow, string_bomb, cut, deep, unknown, resource, no_type]


@pytest.mark.parametrize("high", [1, 127, 128, (1 << 14) - 1, 1 << 14, (1 << 63) - 1])
@pytest.mark.parametrize("first", [0, -1])
def test_numbers_of_any_length_are_read(high, first):
    """Packed numbers of one or two bytes are read all at once, longer ones by protobuf."""
    array = np.array([first, *[0] * 70, 1, high, high // 2, 0, high], np.int64)
    np.testing.assert_array_equal(to_array(to_proto(array, TensorProto())), array)
    short = np.clip(array, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(to_array(to_proto(short, TensorProto())), short)


@pytest.mark.parametrize("proto", damaged(), ids=range(len(damaged())))
def test_damaged_messages_are_refused_without_memory(proto):
    with pytest.raises(TensorError):
        to_array(proto)


def test_arrays_that_no_message_holds_are_refused():
    with pytest.raises(TensorError, match="datetime64"):
        to_proto(np.array(["2026-01-01"], "datetime64[D]"), TensorProto())
