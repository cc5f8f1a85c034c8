"""One live server for the whole suite: ours, a binary that it starts, or one that runs already.

PERGOLA_TF_SERVING=/usr/bin/tensorflow_model_server pytest tests/serving/contract
PERGOLA_TF_SERVING=localhost:8500:8501 pytest tests/serving/contract    # gRPC's port, then REST's

A running server is given the suite's models by a reload, which ends those that it had. It must see this
machine's files and have been started with FLAGS and a monitoring file that enables Prometheus.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import models
from tests.support.servers import LiveServer, ServerProcess

CONFIG = """
model_config_list {{
  config {{ name: "half" base_path: "{base}/half" model_platform: "tensorflow"
           model_version_policy {{ all {{}} }}
           version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 2 }} }}
  config {{ name: "leaves" base_path: "{base}/leaves" model_platform: "tensorflow" }}
  config {{ name: "two" base_path: "{base}/two" model_platform: "tensorflow" }}
  config {{ name: "conv" base_path: "{base}/conv" model_platform: "tensorflow" }}
  config {{ name: "echo" base_path: "{base}/echo" model_platform: "tensorflow" }}
  config {{ name: "tf1" base_path: "{base}/tf1" model_platform: "tensorflow" }}
  config {{ name: "tf2" base_path: "{base}/tf2" model_platform: "tensorflow" }}
}}
"""

FLAGS = ("--allow_version_labels_for_unavailable_models", "--enable_grpc_healthcheck_service")


class Target(NamedTuple):
    """The server under test, and how to talk to it."""

    server: LiveServer
    wire: object  # tests.support.wire.Wire
    is_ours: bool

    def get(self, path: str):
        return self.server.get(path)

    def post(self, path: str, body, headers=None):
        return self.server.post(path, body, headers)


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    base = folder / "models"
    models.half_plus_two(base / "half", 1)
    models.half_plus_two(base / "half", 2, add=3.0)
    models.classifier(base / "leaves")
    models.two_inputs(base / "two")
    models.convolution(base / "conv")
    models.echo(base / "echo")
    models.tf1(base / "tf1")
    models.tf2_examples(base / "tf2")
    config, named = CONFIG.format(base=base), os.environ.get("PERGOLA_TF_SERVING")
    from tests.support.wire import Refusal, Wire

    running = _running(named) if named and ":" in named else _started(folder, config, named)
    with running as server, Wire(server.address) as wire:
        if not isinstance(server, ServerProcess):
            answer = wire.reload(config)
            assert not isinstance(answer, Refusal), answer
        yield Target(server, wire, named is None)


@contextmanager
def _running(address: str) -> Iterator[LiveServer]:
    host, grpc_port, rest_port = address.rsplit(":", 2)
    yield LiveServer(host, int(grpc_port), int(rest_port))


@contextmanager
def _started(folder: Path, config: str, binary: str | None) -> Iterator[ServerProcess]:
    (folder / "models.config").write_text(config)
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    server = ServerProcess(
        folder / "run",
        f"--model_config_file={folder / 'models.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        *FLAGS,
        binary=binary,
    )
    try:
        yield server
    finally:
        status = server.stop()
    assert binary is not None or status == 0, f"SIGTERM gave {status}:\n{server.text()[-2000:]}"
