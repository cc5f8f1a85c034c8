"""A published version whose files changed is never served, and the version before it goes on answering."""

from __future__ import annotations

import shutil
import time

import pytest

from pergola.components.store.publish import publish
from pergola.serving.client.client import Client
from pergola.serving.server.app import Server
from pergola.serving.server.config.errors import ServingError
from pergola.serving.server.config.model_config import ModelConfig
from pergola.serving.server.core.manager import ManagerSettings
from pergola.serving.server.options import ServerOptions
from tests.support import models
from tests.support.damage import flip

FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001",
         "checksums.sha256")  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    base = tmp_path_factory.mktemp("built")
    return [models.half_plus_two(base, 1, add=2.0), models.half_plus_two(base, 2, add=3.0)]


def server(base, **changes):
    manager = ManagerSettings(poll_s=0.05)
    model = ModelConfig("half", base / "half")
    return Server(
        ServerOptions(models=(model,), grpc_port=0, verify_checksums=True, manager=manager, **changes)
    )


def until(is_so, timeout_s=20):
    ends = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def state_of(client, version):
    return next((v for v in client.status() if v.version == version and v.state == "END"), None)


def test_a_damaged_version_ends_with_the_file_and_the_one_before_answers(built, tmp_path):
    publish(built[0], tmp_path, "half", 1)
    with (
        server(tmp_path).start() as running,
        Client(f"localhost:{running.grpc_port}", model="half") as client,
    ):
        for number, file in enumerate(FILES, start=2):
            publish(built[1], tmp_path / "other", "half", number)
            flip(tmp_path / "other" / "half" / str(number) / file)
            (tmp_path / "other" / "half" / str(number)).rename(tmp_path / "half" / str(number))
            until(lambda number=number: state_of(client, number))
            assert str(tmp_path / "half" / str(number)) in state_of(client, number).error
            assert "checksums.sha256" in state_of(client, number).error
            assert client.predict({"x": [2.0]})["y"].tolist() == [3.0]
        shutil.rmtree(tmp_path / "half" / "5")
        publish(built[1], tmp_path, "half", 5)
        until(lambda: client.predict({"x": [2.0]})["y"].tolist() == [4.0])


def test_a_server_does_not_start_with_nothing_but_a_damaged_version(built, tmp_path):
    publish(built[0], tmp_path, "half", 1)
    flip(tmp_path / "half" / "1" / FILES[0])
    with pytest.raises(ServingError, match=r"DATA_LOSS: .*saved_model\.pb is missing or does not match"):
        server(tmp_path).start()


def test_a_graph_that_was_added_later_is_damage(built, tmp_path):
    publish(built[0], tmp_path, "half", 1)
    (tmp_path / "half" / "1" / "saved_model.pbtxt").write_text("another graph")
    with pytest.raises(ServingError, match="was added later"):
        server(tmp_path).start()


def test_a_version_without_checksums_is_not_loaded_where_they_are_asked_for(built, tmp_path):
    shutil.copytree(built[0], tmp_path / "half" / "1")
    with pytest.raises(ServingError, match=r"has no checksums\.sha256"):
        server(tmp_path).start()
