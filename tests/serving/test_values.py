"""Arrays to TensorProto and back, alone and against TensorFlow's own conversion."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pergola.serving.wire import tensors
from pergola.serving.wire.datatypes import BY_NAME, TensorError, numpy_types
from pergola.serving.wire.protos import tensor_pb2
from pergola.serving.wire.tensors import describe
from pergola.serving.wire.values import to_tensor

NUMBERS = sorted(BY_NAME.keys() - {"string"})


def to_array(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """As the client reads an answer."""
    return tensors.to_array(tensor, strict=True)


def numpy_type(name: str) -> np.dtype:
    return numpy_types(BY_NAME[name].number)[0]


@st.composite
def arrays(draw) -> np.ndarray:
    """An array of any type but string, from any bits that the type may hold."""
    name = draw(st.sampled_from(NUMBERS))
    dtype = numpy_type(name)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = int(np.prod(shape))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    bits = np.frombuffer(raw, np.uint8)
    masks = {"bool": 1, "int2": 3, "uint2": 3, "int4": 15, "uint4": 15, "float4_e2m1fn": 15}
    if name in masks:
        bits = bits & masks[name]
    if name in ("int2", "int4"):  # held sign-extended
        half = (masks[name] + 1) // 2
        bits = ((bits.astype(np.int8) ^ half) - half).view(np.uint8)
    return bits.copy().view(dtype).reshape(shape)


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def same_values(one: np.ndarray, other: np.ndarray) -> bool:
    """As same_bits, but any NaN is as good as another: lists of Python floats keep no payload."""
    if one.dtype.fields or one.dtype.kind in "iub":
        return same_bits(one, other)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        wide = one.astype(np.complex128), other.astype(np.complex128)
    return one.dtype == other.dtype and all(
        np.array_equal(getattr(wide[0], part), getattr(wide[1], part), equal_nan=True)
        for part in ("real", "imag")
    )


@settings(max_examples=300, deadline=None)
@given(arrays())
def test_to_array_gives_back_what_to_tensor_took(array):
    assert same_bits(to_array(to_tensor(array)), array)


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, max_side=3), elements=st.binary(max_size=300)))
def test_strings_keep_every_byte(array):
    back = to_array(to_tensor(array))
    assert back.shape == array.shape
    assert back.ravel().tolist() == array.ravel().tolist()


# TensorFlow 2.21 has these numbers, but converts no NumPy array of theirs.
BEYOND_NUMPY = ("float4_e2m1fn", "float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz", "int2", "uint2")

# What its SerializeTensor has a CPU kernel for.
SERIALIZED = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)


@settings(max_examples=200, deadline=None)
@given(arrays().filter(lambda array: array.dtype.name not in BEYOND_NUMPY))
def test_tensor_is_what_tensorflow_makes_and_reads(array):
    import tensorflow as tf

    ours = tf.make_tensor_proto(0)
    ours.ParseFromString(to_tensor(array).SerializeToString())
    theirs = tf.make_tensor_proto(array)
    assert (ours.dtype, ours.tensor_shape) == (theirs.dtype, theirs.tensor_shape)
    assert same_values(to_array(_ours(theirs)), array)
    assert same_values(tf.make_ndarray(ours), array)


@pytest.mark.parametrize("name", SERIALIZED)
def test_tensor_is_what_the_server_side_of_tensorflow_reads_and_writes(name):
    """parse_tensor and serialize_tensor are the C++ conversions that a server runs."""
    import tensorflow as tf

    array = np.arange(4, dtype=np.uint8).astype(numpy_type(name)).reshape(2, 2)
    kind = tf.dtypes.as_dtype(BY_NAME[name].number)
    parsed = tf.io.parse_tensor(to_tensor(array).SerializeToString(), kind)
    written = tensor_pb2.TensorProto.FromString(tf.io.serialize_tensor(parsed).numpy())
    assert same_bits(to_array(written), array)


def _ours(theirs) -> tensor_pb2.TensorProto:
    return tensor_pb2.TensorProto.FromString(theirs.SerializeToString())


@pytest.mark.parametrize("name", NUMBERS)
def test_values_in_the_field_of_their_type_are_read(name):
    """What a server sends without --enable_serialization_as_tensor_content, as TensorFlow itself reads it."""
    import tensorflow as tf

    dtype = numpy_type(name)
    values = np.array([0, 1, 1], np.int64)
    array = values.astype(np.uint8).view(dtype) if dtype.itemsize == 1 and name != "bool" else None
    array = values.astype(dtype[0] if dtype.fields else dtype).view(dtype) if array is None else array
    tensor = _as_field(name, array)
    assert same_bits(to_array(tensor), array)
    if name not in BEYOND_NUMPY:
        theirs = tf.make_tensor_proto(0)
        theirs.ParseFromString(tensor.SerializeToString())
        assert tf.make_ndarray(theirs).tobytes() == array.tobytes()


def _as_field(name: str, array: np.ndarray) -> tensor_pb2.TensorProto:
    kind = BY_NAME[name]
    stored = numpy_types(kind.number)[1]
    tensor = to_tensor(array)
    tensor.ClearField("tensor_content")
    if kind.field == "float8_val":
        tensor.float8_val = array.tobytes()
    elif name.startswith("complex"):
        part = np.float32 if name == "complex64" else np.float64
        getattr(tensor, kind.field).extend(array.view(part).tolist())
    else:
        getattr(tensor, kind.field).extend(array.view(stored).tolist())
    return tensor


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], [0, 0, 0, 0]), ([7], [7, 7, 7, 7]), ([7, 8], [7, 8, 8, 8])],
    ids=["none", "one", "two"],
)
def test_fewer_values_than_elements_repeat_the_last(values, expected):
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_INT32, int_val=values)
    tensor.tensor_shape.dim.add(size=2)
    tensor.tensor_shape.dim.add(size=2)
    assert to_array(tensor).ravel().tolist() == expected


def test_strings_in_tensor_content_are_read():
    import tensorflow as tf

    texts = [b"", b"a" * 300, "Spitzahorn ß".encode()]
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DT_STRING)
    tensor.tensor_shape.dim.add(size=3)
    tensor.tensor_content = bytes([0, 0xAC, 0x02, len(texts[2])]) + b"".join(texts)
    assert to_array(tensor).tolist() == texts
    parsed = tf.io.parse_tensor(tensor.SerializeToString(), tf.string).numpy()
    assert parsed.tolist() == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "float32 ()"),
        (1, "int32 ()"),
        (2**40, "int64 ()"),
        (True, "bool ()"),
        ("ß", "string ()"),
        (b"\xff\x00", "string ()"),
        ([b"a\x00", b"b"], "string (2,)"),
        ([[1.0, 2.0]], "float32 (1, 2)"),
        ([], "float32 (0,)"),
        (1j, "complex128 ()"),
        (np.float64(1.5), "float64 ()"),
        ([np.float64(1.5)], "float64 (1,)"),
        (np.array([1, 2]), "int64 (2,)"),
        (np.array(["a", "bc"]), "string (2,)"),
        (np.array(["a"], dtype=np.dtypes.StringDType()), "string (1,)"),
        (np.zeros((2, 3), ">f4"), "float32 (2, 3)"),
        (np.zeros((4, 4))[::2, ::2], "float64 (2, 2)"),
        (ml_dtypes.bfloat16(1), "bfloat16 ()"),
    ],
)
def test_to_tensor_types_are_those_of_tensorflow(value, text):
    tensor = to_tensor(value)
    assert describe(tensor) == text
    np.testing.assert_array_equal(
        to_array(tensor).astype(object),
        np.asarray(_encoded(value), dtype=object).reshape(to_array(tensor).shape),
    )


def _encoded(value):
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "UT":
        return [text.encode() for text in value.tolist()]
    return value


def test_bytes_keep_trailing_zeros():
    assert to_array(to_tensor([[b"\x00\x00"], [b"a\x00"]])).tolist() == [[b"\x00\x00"], [b"a\x00"]]


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, 5, elements=st.floats(width=32)))
def test_bfloat16_rounds_as_ml_dtypes_does(array):
    sent = to_array(to_tensor(array, "bfloat16"))
    expected = array.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(sent.astype(np.float32), expected.astype(np.float32))


def test_bfloat16_is_float32_where_ml_dtypes_is_missing():
    code = """
import sys; sys.modules["ml_dtypes"] = None
import numpy as np
from pergola.serving.wire.tensors import TensorError, to_array
from pergola.serving.wire.values import to_tensor
tensor = to_tensor([1.0, 3.140625, -np.inf], "bfloat16")
back = to_array(tensor)
assert back.dtype == np.float32 and back.tolist() == [1.0, 3.140625, -np.inf], back
tensor.dtype = 29
try: to_array(tensor)
except TensorError as error: assert "ml_dtypes" in str(error)
else: raise SystemExit("int4 was read without ml_dtypes")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([[1], [2, 3]], "rows of different lengths"),
        ([[b"a"], [b"b", b"c"]], "rows of different lengths"),
        (np.array([np.zeros(2), np.zeros(3)], dtype=object), "rows of different lengths"),
        (object(), "object of type object"),
        ([None], "object of type NoneType"),
        ({"a": 1}, "object of type dict"),
        (np.array(["2026-01-01"], "datetime64[D]"), "datetime64"),
        (np.zeros(2, [("a", "i1"), ("b", "i1")]), "Convert it to one of string"),
    ],
)
def test_to_tensor_refuses_what_is_no_tensor(value, words):
    with pytest.raises(TensorError, match=words):
        to_tensor(value)


@pytest.mark.parametrize(
    ("sizes", "fields", "words"),
    [
        ([2], {"dtype": 1, "tensor_content": b"123"}, "has 3 bytes of content, expected 8"),
        ([1], {"dtype": 1, "float_val": [1, 2]}, "has 2 values"),
        ([-1], {"dtype": 1}, "cannot be negative"),
        ([2**40], {"dtype": 1, "float_val": [1]}, "over the limit"),
        ([2**40], {"dtype": 7, "string_val": [b""]}, "over the limit"),
        ([2], {"dtype": 7, "tensor_content": b"\x05"}, "ends in its lengths"),
        ([1], {"dtype": 7, "tensor_content": b"\x05a"}, "has 1 bytes, not 5"),
        ([1], {"dtype": 8, "scomplex_val": [1.0]}, "expected pairs"),
        ([1], {"dtype": 21}, "DT_VARIANT"),
        ([1], {"dtype": 101}, "number 101"),
        ([], {"dtype": 0}, "DT_INVALID"),
    ],
)
def test_to_array_refuses_damaged_tensors(sizes, fields, words):
    tensor = tensor_pb2.TensorProto(**fields)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    with pytest.raises(TensorError, match=words):
        to_array(tensor)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_to_array_of_random_bytes_gives_an_array_or_a_clear_refusal(raw):
    try:
        tensor = tensor_pb2.TensorProto.FromString(raw)
    except Exception:
        return
    try:
        array = to_array(tensor)
    except TensorError as error:
        assert str(error)
    else:
        assert array.shape == tuple(dim.size for dim in tensor.tensor_shape.dim)
