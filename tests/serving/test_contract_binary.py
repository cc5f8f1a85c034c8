"""The contract suite runs against what PERGOLA_TF_SERVING names: a binary, or a running server's address."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.contract.conftest import FLAGS
from tests.support import models
from tests.support.servers import ServerProcess

SUITE = Path(__file__).parent / "contract"


@pytest.mark.slow
def test_the_contract_suite_runs_against_a_binary():
    """By the stock server's flags alone, as ours is called like it."""
    binary = str(Path(sys.executable).parent / "pergola-model-server")
    _passes(binary, SUITE / "test_status.py", SUITE / "started", "-k", "status or health or reload or 255")


@pytest.mark.slow
def test_the_contract_suite_runs_against_an_address(tmp_path):
    models.half_plus_two(tmp_path / "other", 1)
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    flags = (
        f"--model_base_path={tmp_path / 'other'}",
        f"--monitoring_config_file={tmp_path}/monitoring.config",
    )
    with ServerProcess(tmp_path / "run", *flags, *FLAGS) as server:
        _passes(f"localhost:{server.grpc_port}:{server.rest_port}", SUITE)


def _passes(named: str, *words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, words)],
        env={**os.environ, "PERGOLA_TF_SERVING": named},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
