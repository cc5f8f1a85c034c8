"""PredictionService.Predict: answers and, line by line, refusals."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from tests.support import models
from tests.support.wire import Refusal


def test_predict_gives_outputs_and_says_which_version_made_them(target):
    answer = target.wire.predict("half", {"x": [1.0, 2.0, 5.0]}, version=1)
    assert tf.make_ndarray(answer.outputs["y"]).tolist() == [2.5, 3.0, 4.5]
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half", 1, "serving_default")


def test_predict_takes_the_highest_version_unless_one_is_named(target):
    assert target.wire.outputs("half", {"x": [1.0]})["y"].tolist() == [3.5]
    assert target.wire.outputs("half", {"x": [1.0]}, version=1)["y"].tolist() == [2.5]


def test_predict_follows_labels(target):
    stable = target.wire.predict("half", {"x": [1.0]}, version_label="stable")
    canary = target.wire.predict("half", {"x": [1.0]}, version_label="canary")
    assert (stable.model_spec.version.value, canary.model_spec.version.value) == (1, 2)


def test_predict_fills_the_field_of_the_dtype(target):
    tensor = target.wire.predict("half", {"x": [1.0, 2.0]}, version=1).outputs["y"]
    assert list(tensor.float_val) == [2.5, 3.0] and tensor.tensor_content == b""


def test_predict_gives_only_the_outputs_asked_for(target):
    inputs = {"a": [3.0], "b": [1.0]}
    assert set(target.wire.outputs("two", inputs)) == {"sum", "difference", "name_bytes"}
    assert set(target.wire.outputs("two", inputs, ["sum"])) == {"sum"}


def test_predict_reads_encoded_images(target):
    outputs = target.wire.outputs("leaves", {"image": [models.image_bytes(230), models.image_bytes(20)]})
    assert outputs["label"].tolist() == [b"bright", b"dark"]
    assert outputs["probabilities"].shape == (2, 2)
    np.testing.assert_allclose(outputs["probability"], outputs["probabilities"].max(axis=1))


def test_predict_serves_other_signatures(target):
    pixels = np.full((1, 5, 7, 3), 240, np.uint8)
    assert target.wire.outputs("leaves", {"image": pixels}, signature_name="tensor")["label"] == [b"bright"]
    names = target.wire.outputs("leaves", {"index": np.array([1, 0])}, signature_name="labels")["label"]
    assert names.tolist() == [b"bright", b"dark"]


@pytest.mark.parametrize("dtype", models.ECHOED)
def test_predict_carries_every_dtype_both_ways(target, dtype):
    kind = tf.as_dtype(dtype)
    values = (
        np.array([b"", b"\x00\xff", "ü".encode()], object) if dtype == "string" else np.array([0, 1, 100])
    )
    sent = values.astype(kind.as_numpy_dtype) if dtype != "string" else values
    for shaped in (sent, sent.reshape(3, 1, 1), sent[0:0], sent[1:2].reshape(())):
        got = target.wire.outputs("echo", {"x": tf.make_tensor_proto(shaped, kind)}, signature_name=dtype)
        assert got["x_out"].shape == shaped.shape
        assert got["x_out"].tolist() == shaped.tolist()
        assert tf.as_dtype(got["x_out"].dtype) == kind or dtype == "string"


def test_predict_repeats_a_short_list_of_values(target):
    tensor = TensorProto(dtype=tf.float32.as_datatype_enum, float_val=[7.0])
    tensor.tensor_shape.dim.add(size=3)
    assert target.wire.outputs("half", {"x": tensor}, version=1)["y"].tolist() == [5.5, 5.5, 5.5]


def test_predict_carries_large_messages(target):
    big = np.arange(3_000_000, dtype=np.float32)  # 12 MB, three times gRPC's default limit
    np.testing.assert_array_equal(target.wire.outputs("half", {"x": big}, version=1)["y"], big * 0.5 + 2)


@pytest.mark.parametrize("shape", [(), (8,), (8, 3), (8, 8, 3), (1, 1, 8, 8, 3)])
def test_predict_survives_a_wrong_rank_before_a_convolution(target, shape):
    answer = target.wire.predict("conv", {"image": np.ones(shape, np.float32)})
    assert isinstance(answer, Refusal) and answer.code == "INVALID_ARGUMENT"
    if target.is_ours:
        assert answer.text.startswith(f"input must be 4-dimensional[{','.join(map(str, shape))}]")
    assert target.wire.outputs("conv", {"image": np.ones((1, 4, 4, 3), np.float32)})["y"].shape == (1, 4)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (5, 9, 2, 3), (0, 4, 4, 3)])
def test_predict_takes_every_shape_that_a_convolution_takes(target, shape):
    assert len(target.wire.outputs("conv", {"image": np.ones(shape, np.float32)})["y"]) == shape[0]


def bad_tensor():
    tensor = tf.make_tensor_proto([1.0, 2.0])
    tensor.tensor_content = b"123"
    return tensor


X = {"x": [1.0]}
REFUSALS = {
    "unknown model": (("nope", X), {}, "NOT_FOUND", "Servable not found for request: Latest(nope)"),
    "unknown version": (
        ("half", X),
        {"version": 7},
        "NOT_FOUND",
        "Servable not found for request: Specific(half, 7)",
    ),
    "unknown label": (
        ("half", X),
        {"version_label": "old"},
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: old",
    ),
    "unknown signature": (
        ("half", X),
        {"signature_name": "other"},
        "FAILED_PRECONDITION",
        'Serving signature key "other" not found.',
    ),
    "missing input": (
        ("half", {}),
        {},
        "INVALID_ARGUMENT",
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. "
        "Missing but required: {x}.",
    ),
    "surplus input": (
        ("half", {"x": [1.0], "z": [1.0]}),
        {},
        "INVALID_ARGUMENT",
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
        "Missing but required: {}.",
    ),
    "wrong name": (
        ("half", {"z": [1.0]}),
        {},
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
        "provided. Inputs expected to be in the request {z}, or default input alias set: ",
    ),
    "tensor that contradicts itself": (
        ("half", {"x": bad_tensor()}),
        {},
        "INVALID_ARGUMENT",
        "tensor parsing error: x",
    ),
    "wrong dtype": (
        ("half", {"x": np.array([1.0])}),
        {},
        "INVALID_ARGUMENT",
        "Expects arg[0] to be float but double is provided",
    ),
    "unknown output": (
        ("half", X, ["q"]),
        {},
        "INVALID_ARGUMENT",
        "output tensor alias not found in signature: q Outputs expected to be in the set {y}.",
    ),
    "output twice": (("half", X, ["y", "y"]), {}, "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
    "empty name": (("", X), {}, "INVALID_ARGUMENT", "ModelSpec has no name specified."),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_predict_refuses(target, case):
    arguments, spec, code, text = REFUSALS[case]
    assert target.wire.predict(*arguments, **spec) == Refusal(code, text)


def test_predict_refuses_a_request_without_spec(target):
    from tensorflow_serving.apis import predict_pb2

    answer = target.wire.send(target.wire.prediction.Predict, predict_pb2.PredictRequest())
    assert answer == Refusal("INVALID_ARGUMENT", "Missing ModelSpec")


def test_predict_does_not_check_the_shape_of_the_signature(target):
    assert target.wire.outputs("half", {"x": [[1.0, 2.0]]}, version=1)["y"].tolist() == [[2.5, 3.0]]


def test_predict_cuts_long_texts(target):
    answer = target.wire.predict("m" * 3000, X)
    assert answer.code == "NOT_FOUND"
    assert answer.text.startswith("Servable not found for request: Latest(mmm")
    assert len(answer.text) == 1024 + len("...TRUNCATED") and answer.text.endswith("...TRUNCATED")


def test_predict_of_an_image_that_is_none_is_the_callers_fault(target):
    answer = target.wire.predict("leaves", {"image": [b"not an image"]})
    assert answer.code == "INVALID_ARGUMENT" and "mage" in answer.text
