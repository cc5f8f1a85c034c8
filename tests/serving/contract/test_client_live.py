"""The client against a real server, ours or stock: dtypes, errors, and the answers that others get."""

import base64

import numpy as np
import pytest

from serving.client import Client, ClientError, InvalidInput, NotFound
from serving.ndarrays import to_array, to_tensor
from tests.support import models, pictures

SHAPES = ((0,), (3,), (2, 3), (1, 2, 1, 2))


@pytest.fixture(scope="module")
def client(target):
    with Client(target.server.address, model="half", timeout_s=30) as client:
        yield client


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Some of every kind of value that a dtype has."""
    rng = np.random.default_rng(len(shape))
    if name == "string":
        texts = np.array([b"", b"\x00\xff\x00", "ß".encode(), b"x" * 1000], dtype=object)
        return np.asarray(rng.choice(texts, shape), dtype=object)
    if name == "bool":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if name == "bfloat16":
        import ml_dtypes

        return np.asarray(rng.normal(size=shape), np.float32).astype(ml_dtypes.bfloat16)
    dtype = np.dtype(name)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return np.asarray(rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True))
    real = np.asarray(rng.choice([0.0, -1.5, np.inf, np.nan, 3.25], shape), dtype)
    if dtype.kind == "c":
        real.imag = rng.permutation(real.real.ravel()).reshape(shape)
    return real


@pytest.mark.parametrize("name", models.ECHOED)
def test_every_dtype_goes_there_and_back(client, name):
    for shape in SHAPES:
        sent = values(name, shape)
        back = client.at(model="echo").predict({"x": sent}, signature=name)["x_out"]
        assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(
            back.astype(np.float32) if name == "bfloat16" else back,
            sent.astype(np.float32) if name == "bfloat16" else sent,
        )


@pytest.mark.parametrize("name", models.ECHOED)
def test_a_single_value_goes_there_and_back(client, name):
    sent = values(name, ())
    back = client.at(model="echo").predict({"x": sent}, signature=name)["x_out"]
    assert (back.dtype, back.shape) == (sent.dtype, ())


def test_python_lists_arrive_as_tensorflow_types(client):
    echo = client.at(model="echo")
    assert echo.predict({"x": [[1.0, 2.0]]}, signature="float32")["x_out"].dtype == np.float32
    assert echo.predict({"x": [1, 2]}, signature="int32")["x_out"].dtype == np.int32
    assert echo.predict({"x": ["ß"]}, signature="string")["x_out"].tolist() == ["ß".encode()]


def test_pictures_are_classified_by_version_1(client, tmp_path):
    leaves = client.at(model="leaves")
    bright, dark = np.full((20, 30, 3), 250, np.uint8), np.full((9, 9), 5, np.uint8)
    (tmp_path / "dark.jpg").write_bytes(pictures.encoded(dark, "JPEG"))
    answer = leaves.classify_images([bright, tmp_path / "dark.jpg", pictures.encoded(bright, "PNG")])
    assert answer.labels == ("bright", "dark", "bright")
    assert (answer.model, answer.version, answer.classes) == ("leaves", 1, models.LABELS)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answer.probability, answer.probabilities.max(axis=1))
    assert [name for name, _ in answer.top(2)[1]] == ["dark", "bright"]


def test_stubs_client_and_http_agree(target, client):
    """One picture, three ways."""
    data = pictures.encoded(pictures.pixels(0, 0), "PNG")
    ours = client.at(model="leaves").predict({"image": [data]})
    body = {"instances": [{"b64": base64.b64encode(data).decode()}]}
    rest = target.post("/v1/models/leaves:predict", body).json()["predictions"][0]
    np.testing.assert_allclose(rest["probabilities"], ours["probabilities"][0], rtol=1e-6)
    assert rest["label"] == ours["label"][0].decode()
    theirs = _by_stub(target.server.address, "leaves", {"image": [data]})
    np.testing.assert_array_equal(to_array(theirs["probabilities"]), ours["probabilities"])
    assert list(theirs["label"].string_val) == ours["label"].tolist()


# model, inputs, REST's body: what three ways of asking must answer alike
SAME = {
    "number": ("half", {"x": np.array([2.0, 5.0], np.float32)}, {"inputs": [2.0, 5.0]}),
    "text": ("echo", {"x": np.array([b"a", b"b"], object)}, {"inputs": ["a", "b"]}),
}
SIGNATURES = {"text": "string"}


@pytest.mark.parametrize("case", SAME)
def test_stubs_client_and_http_agree_on_values(target, client, case):
    model, inputs, body = SAME[case]
    signature = SIGNATURES.get(case, "serving_default")
    ours = client.at(model=model).predict(inputs, signature=signature)
    theirs = _by_stub(target.server.address, model, inputs, signature)
    (name,) = theirs
    np.testing.assert_array_equal(to_array(theirs[name]), ours[name])
    rest = target.post(f"/v1/models/{model}:predict", {"signature_name": signature, **body}).json()
    said = [v.decode() if isinstance(v, bytes) else v for v in ours[name].tolist()]
    assert rest["outputs"] == said


@pytest.mark.parametrize(("model", "alias"), [("nobody", "x"), ("half", "z")])
def test_stubs_client_and_http_agree_on_refusals(target, client, model, alias):
    with pytest.raises(ClientError) as ours:
        client.at(model=model).predict({alias: np.array([1.0], np.float32)})
    theirs = target.wire.predict(model, {alias: np.array([1.0], np.float32)})
    assert theirs.text in str(ours.value)
    rest = target.post(f"/v1/models/{model}:predict", {"inputs": {alias: [1.0]}})
    assert rest.status == {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400}[theirs.code]
    if model == "nobody":  # of a misnamed input REST speaks before the predictor does
        assert rest.json()["error"] == theirs.text


def _by_stub(address: str, model: str, inputs, signature: str = "serving_default") -> dict:
    """The outputs that tensorflow-serving-api's own stub gets, as our messages."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from serving.protos import tensor_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].ParseFromString(to_tensor(value).SerializeToString())
    with grpc.insecure_channel(address) as channel:
        reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    return {
        name: tensor_pb2.TensorProto.FromString(tensor.SerializeToString())
        for name, tensor in reply.outputs.items()
    }


def test_versions_and_labels_are_pinned(client):
    x = {"x": np.array([2.0], np.float32)}
    assert client.predict(x).version == 2
    assert client.at(version=1).predict(x)["y"].tolist() == [3.0]
    assert client.at(label="stable").predict(x).version == 1
    assert client.at(label="canary").predict(x)["y"].tolist() == [4.0]


def test_output_filter_picks_outputs(client):
    both = {"a": np.array([2.0], np.float32), "b": np.array([1.0], np.float32)}
    prediction = client.at(model="two").predict(both, outputs=["sum", "name_bytes"])
    assert sorted(prediction.outputs) == ["name_bytes", "sum"]


def test_status_and_metadata_are_told(client):
    assert [(v.version, v.state) for v in client.status()] == [(2, "AVAILABLE"), (1, "AVAILABLE")]
    assert client.wait_until_available() == 2
    metadata = client.at(version=1).metadata()
    signature = metadata.signatures["serving_default"]
    assert (metadata.model, metadata.version) == ("half", 1)
    assert (str(signature.inputs["x"]), str(signature.outputs["y"])) == ("float32 (?,)", "float32 (?,)")
    assert signature.method == "tensorflow/serving/predict"
    assert str(client.at(model="echo").metadata().signatures["int32"].inputs["x"]) == "int32 (any shape)"


ROW = np.array([1.0], np.float32)


@pytest.mark.parametrize(
    ("ask", "kind", "words"),
    [
        (lambda c: c.at(model="roses").predict({"x": ROW}), NotFound, r"does not serve roses"),
        (
            lambda c: c.at(version=9).predict({"x": ROW}),
            NotFound,
            r"It has version 2 \(AVAILABLE\), version 1",
        ),
        (
            lambda c: c.at(label="old").predict({"x": ROW}),
            InvalidInput,
            r"Unrecognized servable version label",
        ),
        (
            lambda c: c.predict({"x": ROW}, signature="s"),
            InvalidInput,
            r"It has the signatures .*serving_default",
        ),
        (lambda c: c.predict({"q": ROW}), InvalidInput, r"takes x: float32 \(\?,\)"),
        (lambda c: c.predict({}), InvalidInput, r"Missing but required: \{x\}"),
        (
            lambda c: c.predict({"x": ROW.astype(float)}),
            InvalidInput,
            r"Sent: x: float64 \(1,\).*takes x: float32",
        ),
        (lambda c: c.predict({"x": ROW}, outputs=["q"]), InvalidInput, r"output tensor alias not found"),
        (
            lambda c: c.at(model="leaves").predict({"image": [b"no"]}),
            InvalidInput,
            r"Sent: image: string \(1,\)",
        ),
        (lambda c: c.at(model="roses").status(), NotFound, r"does not serve roses"),
        (lambda c: c.at(model="roses").metadata(), NotFound, r"does not serve roses"),
    ],
)
def test_refusals_say_what_came_and_what_was_wanted(client, ask, kind, words):
    with pytest.raises(kind, match=words):
        ask(client)
