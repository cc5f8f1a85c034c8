"""The same bytes give the same answer by REST, gRPC, client and evaluation, or a loud refusal."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import pytest

from pergola.components.data.manifest.image_metadata import ImageLimits, inspect
from pergola.components.evaluation.loaded_model import LoadedModel
from pergola.serving.client import Client, InvalidInput
from pergola.serving.wire.images import PIXELS_OF_ANY_MODEL, prepare
from tests.support.cases import encoded, odd_files, picture
from tests.support.exported import exported
from tests.support.servers import LiveServer, in_process

FILES = odd_files()
LIMITS = ImageLimits(PIXELS_OF_ANY_MODEL, 1 << 16, 1 << 28)
AS_JPEG = 0.02  # what a rewritten JPEG may differ by in probability

pytestmark = pytest.mark.slow  # to export and load a model takes most of it


@dataclass
class Ways:
    """One model, asked in every way."""

    server: LiveServer
    client: Client
    model: LoadedModel

    def by_rest(self, data: bytes) -> np.ndarray | None:
        """Probabilities, float (C,), for raw bytes; None where they are refused."""
        instance = {"b64": base64.b64encode(data).decode()}
        reply = self.server.post("/v1/models/m:predict", {"instances": [instance]})
        assert reply.status in (200, 400), reply.body
        return np.array(reply.json()["predictions"][0]["probabilities"]) if reply.status == 200 else None

    def by_grpc(self, data: bytes) -> np.ndarray | None:
        try:
            return self.client.predict({"image": [data]})["probabilities"][0]
        except InvalidInput:
            return None


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    base = tmp_path_factory.mktemp("m")
    folder = exported(base, max_pixels=30_000)
    with (
        in_process("--model_name=m", f"--model_base_path={base}") as started,
        Client(f"localhost:{started.grpc_port}", model="m") as client,
        LoadedModel(folder) as model,
    ):
        yield Ways(LiveServer("localhost", started.grpc_port, started.rest_port), client, model)


@pytest.mark.parametrize("name", FILES)
def test_case_has_one_answer_or_is_refused(ways, name):
    data = FILES[name]
    rest, grpc = ways.by_rest(data), ways.by_grpc(data)
    assert (rest is None) == (grpc is None)
    assert inspect(data, LIMITS).reason is None
    trained_on = ways.model.probabilities([prepare(data)])[0]
    np.testing.assert_allclose(ways.client.classify_images([data]).probabilities[0], trained_on, atol=1e-6)
    if grpc is not None:
        np.testing.assert_allclose(rest, grpc, atol=1e-6)
        np.testing.assert_allclose(grpc, trained_on, atol=AS_JPEG if prepare(data)[:1] == b"\xff" else 1e-2)


def test_case_answers_tell_turned_and_transparent_images_apart(ways):
    plain = encoded(picture(), "PNG")
    for name in ("exif6.png", "png-palette-clear", "gif-clear", "webp-exif-3"):
        assert (
            np.abs(ways.by_grpc(plain) - ways.model.probabilities([prepare(FILES[name])])[0]).max() > AS_JPEG
        )


def test_case_of_too_many_pixels_is_refused_alike(ways):
    large = encoded(picture(180, 200), "PNG")
    assert ways.by_rest(large) is None and ways.by_grpc(large) is None
    with pytest.raises(InvalidInput, match="more than 30000 pixels"):
        ways.client.classify_images([large])


def test_evaluation_scales_down_what_a_model_would_refuse(ways):
    fits = ways.model.probabilities([encoded(picture(120, 200), "PNG")])
    np.testing.assert_allclose(ways.model.probabilities([encoded(picture(180, 300), "PNG")]), fits, atol=0.05)
