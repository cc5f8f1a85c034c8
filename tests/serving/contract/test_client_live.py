"""The client against a real server, ours or stock: dtypes, versions, errors."""

import numpy as np
import pytest

from pergola.serving.client import InvalidInput, NotFound
from tests.support import images, models

SHAPES = ((0,), (3,), (2, 3), (1, 2, 1, 2))


@pytest.fixture(scope="module")
def client(target, connect):
    with connect(target.server.address, model="half", timeout_s=30) as client:
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


def test_images_are_classified_by_version_1(client, tmp_path):
    leaves = client.at(model="leaves")
    bright, dark = np.full((20, 30, 3), 250, np.uint8), np.full((9, 9), 5, np.uint8)
    (tmp_path / "dark.jpg").write_bytes(images.encoded(dark, "JPEG"))
    answer = leaves.classify_images([bright, tmp_path / "dark.jpg", images.encoded(bright, "PNG")])
    assert answer.labels == ("bright", "dark", "bright")
    assert (answer.model, answer.version, answer.classes) == ("leaves", 1, models.LABELS)
    np.testing.assert_allclose(answer.probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(answer.probability, answer.probabilities.max(axis=1))
    assert [name for name, _ in answer.top(2)[1]] == ["dark", "bright"]


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
def test_refusals_say_what_came_and_what_was_expected(client, ask, kind, words):
    with pytest.raises(kind, match=words):
        ask(client)
