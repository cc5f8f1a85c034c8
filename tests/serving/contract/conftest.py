"""One live server for the whole suite: ours, or the stock one that PERGOLA_TF_SERVING points at.

PERGOLA_TF_SERVING=/usr/bin/tensorflow_model_server pytest tests/serving/contract
"""

from __future__ import annotations

import os
from typing import NamedTuple

import pytest

from tests.support import models
from tests.support.servers import ServerProcess

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
}}
"""


class Target(NamedTuple):
    """The server under test, and how to talk to it."""

    server: ServerProcess
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
    (folder / "models.config").write_text(CONFIG.format(base=base))
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    binary = os.environ.get("PERGOLA_TF_SERVING")
    server = ServerProcess(
        folder / "run",
        f"--model_config_file={folder / 'models.config'}",
        f"--monitoring_config_file={folder / 'monitoring.config'}",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_healthcheck_service",
        binary=binary,
    )
    from tests.support.wire import Wire

    with Wire(server.address) as wire:
        yield Target(server, wire, binary is None)
    status = server.stop()
    assert binary is not None or status == 0, f"SIGTERM gave {status}:\n{server.text()[-2000:]}"
