"""tensorflow-serving-api's stubs, this client and plain HTTP are told the same, also when they are refused.

The client has no Classify and no Regress: there the stubs and HTTP agree.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2

from pergola.serving.client import Client, ClientError, InvalidInput, NotFound, ServedModel
from pergola.serving.wire.datatypes import type_name
from tests.support import images
from tests.support.wire import Refusal


@pytest.fixture(scope="module")
def client(target):
    with Client(target.server.address, model="half", timeout_s=30) as client:
        yield client


class Ask(NamedTuple):
    """One predict request. column: its inputs as REST's JSON has them."""

    model: str
    inputs: dict
    column: object
    signature: str = ""
    version: int | None = None
    label: str | None = None

    @property
    def path(self) -> str:
        """Of the model in the REST API."""
        choice = "" if self.version is None else f"/versions/{self.version}"
        return f"/v1/models/{self.model}{choice}" + (f"/labels/{self.label}" if self.label else "")

    def by_stub(self, target):
        spec = {"version": self.version, "version_label": self.label or "", "signature_name": self.signature}
        return target.wire.predict(self.model, self.inputs, **spec)

    def by_client(self, client):
        asked = client.at(model=self.model, version=self.version, label=self.label)
        return asked.predict(self.inputs, signature=self.signature or "serving_default")

    def by_http(self, target):
        body = {"inputs": self.column, **({"signature_name": self.signature} if self.signature else {})}
        return target.post(f"{self.path}:predict", body)


IMAGE = images.encoded(images.pixels(0, 0), "PNG")
TWO = {"x": np.array([2.0, 5.0], np.float32)}
ANSWERS = {
    "numbers": Ask("half", TWO, [2.0, 5.0]),
    "an older version": Ask("half", TWO, [2.0, 5.0], version=1),
    "a label": Ask("half", TWO, [2.0, 5.0], label="stable"),
    "several inputs and outputs": Ask(
        "two",
        {"a": np.array([3.0], np.float32), "b": np.array([1.0], np.float32)},
        {"a": [3.0], "b": [1.0]},
    ),
    "an image": Ask(
        "leaves",
        {"image": np.array([IMAGE], object)},
        [{"b64": base64.b64encode(IMAGE).decode()}],
    ),
    "texts": Ask("echo", {"x": np.array([b"a", "ü".encode()], object)}, ["a", "ü"], "string"),
    "whole numbers": Ask("echo", {"x": np.array([-(2**60)], np.int64)}, [-(2**60)], "int64"),
    "truths": Ask("echo", {"x": np.array([True, False])}, [True, False], "bool"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_predictions_agree(target, client, case):
    ask = ANSWERS[case]
    stub, ours, reply = ask.by_stub(target), ask.by_client(client), ask.by_http(target)
    arrays = {name: tf.make_ndarray(tensor) for name, tensor in stub.outputs.items()}
    assert ours.outputs.keys() == arrays.keys() and ours.version == stub.model_spec.version.value
    for name, array in arrays.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array)
    columns = reply.json()["outputs"]
    columns = columns if len(arrays) > 1 else {next(iter(arrays)): columns}
    assert {name: _json(name, array) for name, array in arrays.items()} == {
        name: _rounded(column) for name, column in columns.items()
    }


def _json(name: str, array: np.ndarray) -> list:
    """An array as REST gives it: float32 to the digits that they have, texts, bytes by base64."""
    if array.dtype != object:
        return _rounded(array.tolist())
    if name.endswith("_bytes"):
        return [{"b64": base64.b64encode(item).decode()} for item in array.tolist()]
    return [item.decode() for item in array.tolist()]


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


ROWS = [{"x": 2.0}, {"x": 3.0}]


@pytest.mark.parametrize("signature", ["classify_x_to_y", "classify_scores"])
def test_classifications_agree(target, signature):
    answer = target.wire.classify("tf1", ROWS, signature_name=signature)
    reply = target.post("/v1/models/tf1:classify", {"signature_name": signature, "examples": ROWS})
    said = [[[c.label, c.score] for c in row.classes] for row in answer.result.classifications]
    assert reply.json() == {"results": said}


def test_regressions_agree(target):
    answer = target.wire.regress("tf1", ROWS, {"x": 9.0}, signature_name="regress_x_to_y")
    body = {"signature_name": "regress_x_to_y", "context": {"x": 9.0}, "examples": ROWS}
    reply = target.post("/v1/models/tf1:regress", body)
    assert reply.json() == {"results": [row.value for row in answer.result.regressions]}


@pytest.mark.parametrize(("model", "version"), [("half", None), ("half", 1), ("leaves", None), ("tf1", None)])
def test_metadata_agrees(target, client, model, version):
    answer = target.wire.metadata(model, version=version)
    ours = client.at(model=model, version=version).metadata()
    reply = target.get(Ask(model, {}, None, version=version).path + "/metadata").json()
    number = answer.model_spec.version.value
    assert (ours.version, reply["model_spec"]["version"]) == (number, str(number))
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    told = reply["metadata"]["signature_def"]["signature_def"]
    assert ours.signatures.keys() == set(found.signature_def) == told.keys()
    for name, signature in found.signature_def.items():
        assert ours.signatures[name].method == told[name]["method_name"] == signature.method_name
        for side in ("inputs", "outputs"):
            stub = {alias: _spec(info) for alias, info in getattr(signature, side).items()}
            assert {a: _read(spec) for a, spec in getattr(ours.signatures[name], side).items()} == stub
            assert {a: _read_json(info) for a, info in told[name][side].items()} == stub


def _spec(info) -> tuple:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)
    return type_name(info.dtype), sizes


def _read(spec) -> tuple:
    return spec.dtype, None if spec.shape is None else tuple(-1 if s is None else s for s in spec.shape)


def _read_json(info) -> tuple:
    shape = info["tensor_shape"]
    sizes = None if shape["unknown_rank"] else tuple(int(dim["size"]) for dim in shape["dim"])
    return type_name(types_pb2.DataType.Value(info["dtype"])), sizes


@pytest.mark.parametrize("version", [None, 1])
def test_states_agree(target, client, version):
    answer = target.wire.status("half", version=version).model_version_status
    names = type(answer[0]).State
    said = [(s.version, names.Name(s.state), s.status.error_message) for s in answer]
    assert [(s.version, s.state, s.error) for s in client.at(version=version).status()] == said
    reply = target.get(Ask("half", {}, None, version=version).path).json()["model_version_status"]
    assert [(int(s["version"]), s["state"], s["status"]["error_message"]) for s in reply] == said


HTTP = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400}
KINDS = {"NOT_FOUND": NotFound, "INVALID_ARGUMENT": InvalidInput, "FAILED_PRECONDITION": InvalidInput}

ONE = {"x": np.array([1.0], np.float32)}
# The request, and what REST says where it looks before the predictor does.
REFUSALS = {
    "unknown model": (Ask("nobody", ONE, [1.0]), None),
    "unknown version": (Ask("half", ONE, [1.0], version=7), None),
    "unknown label": (Ask("half", ONE, [1.0], label="old"), None),
    "unknown signature": (
        Ask("half", ONE, [1.0], "odd"),
        'Serving signature name: "odd" not found in signature def',
    ),
    "misnamed input": (
        Ask("half", {"z": ONE["x"]}, {"z": [1.0]}),
        "Missing named input: x in 'inputs' object.",
    ),
    "missing input": (
        Ask("two", {"a": ONE["x"]}, {"a": [1.0]}),
        "Missing named input: b in 'inputs' object.",
    ),
    "wrong type": (
        Ask("half", {"x": np.array([b"a"], object)}, ["a"]),
        'JSON Value: "a" Type: String is not of expected type: float',
    ),
    "rows of different lengths": (
        Ask(
            "two",
            {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)},
            {"a": [1.0] * 2, "b": [1.0] * 3},
        ),
        None,
    ),
    "no image": (
        Ask("leaves", {"image": np.array([b"no"], object)}, [{"b64": base64.b64encode(b"no").decode()}]),
        None,
    ),
    "wrong rank": (
        Ask("conv", {"image": np.ones((2, 2), np.float32)}, [[1.0, 1.0], [1.0, 1.0]]),
        None,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_agree(target, client, case):
    ask, text = REFUSALS[case]
    refusal = ask.by_stub(target)
    assert isinstance(refusal, Refusal)
    with pytest.raises(ClientError) as caught:
        ask.by_client(client)
    assert type(caught.value) is KINDS[refusal.code] and caught.value.details == refusal.text
    reply = ask.by_http(target)
    assert (reply.status, reply.json()["error"]) == (HTTP[refusal.code], text or refusal.text)


@pytest.mark.parametrize(("model", "version"), [("nobody", None), ("half", 7)])
def test_refusals_of_states_and_metadata_agree(target, client, model, version):
    path = Ask(model, {}, None, version=version).path
    asked = client.at(model=model, version=version)
    for refusal, call, reply in (
        (target.wire.status(model, version=version), asked.status, target.get(path)),
        (target.wire.metadata(model, version=version), asked.metadata, target.get(path + "/metadata")),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert refusal == Refusal("NOT_FOUND", caught.value.details)
        assert (reply.status, reply.json()["error"]) == (404, refusal.text)


@pytest.mark.parametrize(
    ("api", "signature", "examples"),
    [
        ("classify", "odd", ROWS),
        ("classify", "regress_x_to_y", ROWS),
        ("regress", "serving_default", ROWS),
        ("regress", "regress_x_to_y", [{"q": 1.0}]),
    ],
)
def test_refusals_of_examples_agree(target, api, signature, examples):
    refusal = getattr(target.wire, api)("tf1", examples, signature_name=signature)
    reply = target.post(f"/v1/models/tf1:{api}", {"signature_name": signature, "examples": examples})
    assert (reply.status, reply.json()["error"]) == (HTTP[refusal.code], refusal.text)


def test_refusals_of_a_reload_agree(target, client):
    entry = 'config { name: "m" base_path: "/m" model_platform: "tensorflow" }'
    refusal = target.wire.reload(f"model_config_list {{ {entry} {entry} }}")
    with pytest.raises(InvalidInput) as caught:
        client.reload([ServedModel("m", "/m")] * 2)
    assert refusal == Refusal("INVALID_ARGUMENT", caught.value.details)
