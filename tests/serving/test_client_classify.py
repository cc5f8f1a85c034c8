"""Images to classes through the client."""

import io

import grpc
import numpy as np
import pytest
from PIL import Image

from pergola.serving.client import DeadlineExceeded, InvalidInput, NotFound, Unavailable
from tests.support.scripted_server import CLASSES, ScriptedServer


def picture(width: int = 8, height: int = 8, *, orientation: int | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.effect_noise((width, height), 90).convert("RGB")
    exif = image.getexif()
    if orientation:
        exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.fixture
def server():
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def client(server, connect):
    with connect(server.address, model="leaves", timeout_s=10) as client:
        yield client


def images_sent(server) -> list[bytes]:
    predictions = [request for name, request in server.requests if name == "Predict"]
    return [image for r in predictions for image in r.inputs["image"].string_val if "image" in r.inputs]


def test_classify_takes_paths_bytes_and_arrays(server, client, tmp_path):
    data = picture()
    (tmp_path / "ä leaf.JPG").write_bytes(data)
    pixels = np.zeros((4, 6, 3), np.uint8)
    answer = client.classify_images([str(tmp_path / "ä leaf.JPG"), tmp_path / "ä leaf.JPG", data, pixels])
    assert len(answer) == 4
    assert answer.labels[:3] == (CLASSES[len(data) % 3],) * 3
    assert answer.probabilities.shape == (4, 3) and answer.probability.shape == (4,)
    assert (answer.model, answer.version, answer.classes) == ("leaves", 1, CLASSES)
    sent = images_sent(server)
    assert sent[:3] == [data] * 3
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(sent[3]))), pixels)


def test_classify_says_of_a_server_that_is_away_that_it_is_away(connect):
    """Not that the image is invalid, for which it asks the server how large images may be."""
    buffer = io.BytesIO()
    Image.new("1", (4200, 4200)).save(buffer, "PNG")
    with (
        connect("127.0.0.1:1", model="leaves", timeout_s=1) as client,
        pytest.raises((Unavailable, DeadlineExceeded)) as raised,
    ):
        client.classify_images([buffer.getvalue()])
    assert not isinstance(raised.value, InvalidInput)


def test_classify_gives_the_decision_of_a_model_that_has_one(server, client):
    assert client.classify_images([picture()]).decisions is None
    plain = server.answer
    server.answer = lambda inputs, signature: {
        **plain(inputs, signature),
        **({"decision": np.array([b"ask a person"], object)} if "image" in inputs else {}),
    }
    assert client.classify_images([picture()]).decisions == ("ask a person",)


def test_classify_sends_images_upright(server, client):
    client.classify_images([picture(16, 8, orientation=6)])
    sent = Image.open(io.BytesIO(images_sent(server)[0]))
    assert sent.size == (8, 16)
    assert sent.getexif().get(0x0112, 1) == 1


def test_classify_ranks_the_classes_by_name(server, client):
    top = client.classify_images([np.zeros((4, 4), np.uint8)]).top(2)
    assert next(name for name, _ in top[0]) in CLASSES
    assert [round(p, 3) for _, p in top[0]] == [0.8, 0.1]
    assert all(isinstance(p, float) for _, p in top[0])


def test_class_names_are_asked_once_a_version(server, client):
    images = [np.zeros((4, 4), np.uint8)]
    client.classify_images(images)
    client.classify_images(images)
    server.versions = [1, 2]
    assert client.classify_images(images).version == 2
    signatures = [r.model_spec.signature_name for name, r in server.requests if name == "Predict"]
    assert signatures.count("labels") == 2
    assert [r.model_spec.version.value for _, r in server.requests if "index" in r.inputs] == [1, 2]


def test_classify_sends_batches_in_order(server, client):
    images = [picture() for _ in range(50)]
    answer = client.classify_images(images, batch_size=8, in_flight=3)
    assert answer.labels == tuple(CLASSES[len(image) % 3] for image in images)
    sizes = [len(r.inputs["image"].string_val) for _, r in server.requests if "image" in r.inputs]
    assert sorted(sizes) == [2, 8, 8, 8, 8, 8, 8]


def test_classify_gives_one_answer_from_one_version(server, client):
    """A new version comes in the middle: what the old one answered is asked again."""
    seen = []

    def answer(inputs, signature):
        from tests.support import scripted_server

        seen.append(signature)
        if len(seen) == 3:
            server.versions = [1, 2]
        return scripted_server.classify(inputs, signature)

    server.answer = answer
    result = client.classify_images([picture() for _ in range(12)], batch_size=2, in_flight=1)
    assert result.version == 2
    assert len(result) == 12
    assert 6 < len(seen) <= 12


def test_classify_tells_when_servers_disagree_for_good(connect):
    with ScriptedServer() as one, ScriptedServer() as other:
        other.versions = [2]
        with connect([one.address, other.address], model="leaves") as client:
            images = [np.zeros((4, 4), np.uint8)] * 64
            with pytest.raises(Unavailable, match=r"versions \[1, 2\] of leaves.*Pin version"):
                client.classify_images(images, batch_size=1)


def test_classify_without_names_still_classifies(server, client):
    from tests.support.scripted_server import classify

    def answer(inputs, signature):
        if signature == "labels":
            raise ValueError('Serving signature key "labels" not found.')
        return classify(inputs, signature)

    server.answer = answer
    result = client.classify_images([np.zeros((4, 4), np.uint8)])
    assert result.labels[0] in CLASSES
    with pytest.raises(NotFound, match="does not provide the names of its classes"):
        result.top()


def test_classify_asks_for_names_again_when_they_were_away(server, connect):
    images = [np.zeros((4, 4), np.uint8)]
    with connect(server.address, model="leaves", timeout_s=10) as client:
        client.predict({"image": [b"a"]})
        gone = (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(leaves, 1)")
        server.failures = []
        real = server.answer

        def answer(inputs, signature):
            if signature == "serving_default":
                server.failures = [gone]
            return real(inputs, signature)

        server.answer = answer
        assert client.classify_images(images).classes == ()
        server.answer = real
        assert client.classify_images(images).classes == CLASSES


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "Got no images"),
        (b"abc", r"Got one image.*classify_images\(\[image\]\)"),
        ("leaf.jpg", "Got one image"),
        (np.zeros((8, 8, 3), np.uint8), r"shape \(8, 8, 3\), expected a list of images"),
        ([b"not an image"], "Image 0: .*not an image that can be read"),
        ([np.zeros((4, 4), np.uint8), "no-such-file.jpg"], "Image 1: .*No such file"),
        ([np.zeros((4, 4), np.float32)], "Image 0: Got an array of float32"),
        ([None], "Image 0: Got a NoneType"),
    ],
)
def test_classify_refuses_what_is_no_image(server, client, images, words):
    with pytest.raises(InvalidInput, match=words):
        client.classify_images(images)


def test_classify_reports_a_model_that_is_no_classifier(server, client):
    server.answer = lambda inputs, signature: {"y": np.zeros(1, np.float32)}
    with pytest.raises(InvalidInput, match="has no output 'probabilities'"):
        client.classify_images([np.zeros((4, 4), np.uint8)])
