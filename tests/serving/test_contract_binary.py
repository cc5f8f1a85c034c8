"""The contract suite starts whatever server PERGOLA_TF_SERVING names, by the stock server's flags alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "contract" / "test_status.py"


@pytest.mark.slow
def test_the_contract_suite_runs_against_a_binary():
    ours = Path(sys.executable).parent / "pergola-model-server"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SUITE)],
        env={**os.environ, "PERGOLA_TF_SERVING": str(ours)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
