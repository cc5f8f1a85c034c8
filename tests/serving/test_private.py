"""Tokens, files for their owner alone, and what a reload request may not choose."""

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from pergola.serving.client import Client, ClientLog, InvalidInput
from pergola.serving.server.auth import NEEDED, WRONG, Tokens, read_tokens
from pergola.serving.server.config.errors import BadConfig
from pergola.serving.server.config.model_config import ModelConfig, RequestLogConfig, requested
from pergola.serving.wire.contract import TOKEN_VARIABLE
from pergola.serving.wire.private_files import open_private, rotate
from tests.support.scripted_server import ScriptedServer
from tests.support.servers import models_config

LOGGING = 'logging_config { log_collector_config { type: "file" filename_prefix: "/etc/x" } }'


def test_each_token_of_a_file_is_accepted_and_no_other(tmp_path):
    (tmp_path / "tokens").write_text("new\nold\n")
    tokens = read_tokens(tmp_path / "tokens")
    assert [tokens.refusal(h) for h in ("Bearer new", b"bearer old", None, "", "Bearer ne", "new")] == [
        *("", ""),
        *(NEEDED, NEEDED),
        *(WRONG, WRONG),
    ]
    assert Tokens().refusal(None) == ""


def test_tokens_come_from_the_environment_where_there_is_no_file(monkeypatch, tmp_path):
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    assert read_tokens(None).refusal("Bearer secret") == "" != read_tokens(None).refusal("Bearer x")
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(BadConfig, match="token file"):
            read_tokens(path)


def test_a_client_sends_its_token_and_not_unencrypted_to_elsewhere():
    with ScriptedServer() as server, Client(server.address, model="leaves", token="secret") as client:
        client.status()
        assert server.metadata[0]["authorization"] == "Bearer secret"
    with pytest.raises(InvalidInput, match="unencrypted"):
        Client("example.com:8500", model="leaves", token="secret")


def test_a_reload_request_cannot_choose_a_log_and_keeps_the_own_ones(tmp_path):
    own = ModelConfig("m", tmp_path, request_log=RequestLogConfig("/logs/m", 0.5))
    message = model_server_config_pb2.ModelServerConfig()
    text_format.Parse(models_config(("m", "/models/m"), ("n", "/models/n")), message)
    assert [model.request_log for model in requested(message, [own])] == [own.request_log, None]
    text_format.Parse(models_config(("m", "/models/m", LOGGING)), message := type(message)())
    with pytest.raises(BadConfig, match="logging_config is not taken from a request"):
        requested(message, [own])


def test_private_files_are_for_their_owner_and_rotated(tmp_path):
    path = tmp_path / "logs" / "log"
    with open_private(path) as file:
        file.write(b"a" * 50)
        file.flush()
        path.chmod(0o644)
        open_private(path).close()
        rotate(path, 100)
        assert path.stat().st_size == 50
        file.write(b"b" * 100)
        file.flush()
        rotate(path, 100)
        file.write(b"c")
    assert (path.read_bytes(), path.with_name("log.1").read_bytes()) == (b"c", b"b" * 100)
    assert {p.stat().st_mode & 0o777 for p in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_log_of_a_client_is_private(tmp_path):
    with ScriptedServer() as server, ClientLog(tmp_path / "log") as log:
        with Client(server.address, model="leaves", log=log) as client:
            client.predict({"image": [b"x"]})
        (path,) = tmp_path.glob("*.tfrecord")
    assert path.stat().st_mode & 0o777 == 0o600
