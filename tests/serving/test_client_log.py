"""The client's log: what was asked and answered, in files that drift and feedback read."""

import logging

import pytest

from pergola.components.evaluation.drift import request_log
from pergola.serving.client import ClientLog, InvalidInput
from tests.support.images import pixels, png
from tests.support.scripted_server import ScriptedServer

IMAGES = [png(pixels(label, 0)) for label in range(3)]


@pytest.fixture
def server():
    with ScriptedServer() as server:
        server.versions = [7]
        yield server


def test_answered_images_can_be_read_back(server, tmp_path, connect):
    prefix = tmp_path / "new" / "leaves"
    with (
        ClientLog(prefix, clock=lambda: 1_700_000_000.5) as log,
        connect(server.address, model="leaves", log=log) as client,
    ):
        answer = client.classify_images(IMAGES, batch_size=2)
        client.predict({"image": IMAGES[:1]})
        with pytest.raises(InvalidInput):
            client.predict({"image": object()})
    found = list(request_log.read_log(request_log.log_files(str(prefix)), model="leaves", version=7))
    assert sorted(one.image for one in found) == sorted([*IMAGES, IMAGES[0]])
    assert {one.at_s for one in found} == {1_700_000_000}
    by_image = {one.image: one.probabilities.tolist() for one in found}
    assert [by_image[image] for image in IMAGES] == answer.probabilities.tolist()


def test_a_share_of_the_requests_is_kept(server, tmp_path, connect):
    draws = iter([0.2, 0.6, 0.4, 0.9])
    with (
        ClientLog(tmp_path / "log", share=0.5, draw=lambda: next(draws)) as log,
        connect(server.address, model="leaves", log=log) as client,
    ):
        for image in (*IMAGES, IMAGES[0]):
            client.predict({"image": [image]})
    found = request_log.read_log(request_log.log_files(str(tmp_path / "log")))
    assert [one.image for one in found] == [IMAGES[0], IMAGES[2]]
    with pytest.raises(InvalidInput, match="share is 2"):
        ClientLog(tmp_path / "log", share=2)


def test_files_end_at_a_size_and_the_oldest_go(server, tmp_path, connect):
    with (
        ClientLog(tmp_path / "log", max_file_bytes=10, max_files=2) as log,
        connect(server.address, model="leaves", log=log) as client,
    ):
        for image in IMAGES:
            client.predict({"image": [image]})
    files = request_log.log_files(str(tmp_path / "log"))
    assert [one.image for one in request_log.read_log(files)] == IMAGES[1:] and len(files) == 2


def test_a_request_does_not_fail_for_its_log(server, tmp_path, caplog, connect):
    (tmp_path / "file").write_text("no folder")
    with (
        caplog.at_level(logging.WARNING),
        ClientLog(tmp_path / "file" / "log") as log,
        connect(server.address, model="leaves", log=log) as client,
    ):
        assert client.predict({"image": IMAGES[:1]}).version == 7
        assert client.predict({"image": IMAGES[:1]}).version == 7
    assert log.failed == 2 and len(caplog.records) == 1
