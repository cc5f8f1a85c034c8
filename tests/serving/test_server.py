"""A whole server in this process. What it does on the wire is in the contract suite."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import models
from tests.support.servers import fetch, in_process, until
from tests.support.wire import Wire


def test_stop_finishes_what_is_in_flight_and_takes_no_more(tmp_path):
    models.slow(tmp_path / "slow", ms=1500)
    with (
        in_process(f"--model_base_path={tmp_path / 'slow'}", "--model_name=slow") as server,
        ThreadPoolExecutor(4) as pool,
    ):
        wire = Wire(f"localhost:{server.grpc_port}")
        url = f"http://localhost:{server.rest_port}/v1/models/slow:predict"
        body = json.dumps({"instances": [1.0]}).encode()
        pending = pool.submit(wire.predict, "slow", {"x": [1.0]})
        rest = pool.submit(fetch, url, body)
        until(lambda: server.manager.in_flight() == 2)
        stopping = pool.submit(server.stop, 10)
        assert pending.result().outputs["y"].float_val == [2.0]
        assert rest.result().json() == {"predictions": [2.0]}
        stopping.result()
        assert wire.predict("slow", {"x": [1.0]}, timeout_s=2).code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        with pytest.raises(OSError):
            fetch(url, body, timeout_s=2)
        wire.close()
