"""Too much at once, too slow, and killed in the middle of it."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from pergola.serving.client import NO_RETRY, Client
from pergola.serving.tools.child_server import OURS, ChildServer
from tests.support import models
from tests.support.callers import load_while
from tests.support.servers import models_config, until
from tests.support.wire import Refusal

SLOW = {"x": [0.0]}


def test_overload_is_refused_at_once_and_recovery_too(start, binary, slow):
    server, wire, _ = start(
        f"--model_base_path={slow}", "--model_name=slow", "--grpc_max_threads=1", "--rest_api_num_threads=1"
    )
    with ThreadPoolExecutor(40) as pool:
        started = time.monotonic()
        answers = list(pool.map(lambda _: wire.predict("slow", SLOW, timeout_s=4), range(40)))
    refused = [a.code for a in answers if isinstance(a, Refusal)]
    assert set(refused) <= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"} and time.monotonic() - started < 20
    if not binary:  # the stock server lets them wait
        assert refused.count("RESOURCE_EXHAUSTED") >= 15
    until(lambda: not isinstance(wire.predict("slow", SLOW), Refusal))
    assert server.post("/v1/models/slow:predict", {"instances": [0.0]}).status == 200


def short_queue(folder):
    """Flags for batches of one, of which two may wait."""
    file = folder / "batching.txt"
    file.write_text(
        "max_batch_size { value: 1 } num_batch_threads { value: 1 } max_enqueued_batches { value: 2 }"
    )
    return "--enable_batching", f"--batching_parameters_file={file}"


def test_a_full_batching_queue_is_said_at_once_and_recovery_too(start, slow, tmp_path):
    server, wire, _ = start(f"--model_base_path={slow}", "--model_name=slow", *short_queue(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: wire.predict("slow", SLOW), range(8)))
        url = "/v1/models/slow:predict"
        statuses = {r.status for r in pool.map(lambda _: server.post(url, {"instances": [0.0]}), range(8))}
    refused = [a for a in answers if isinstance(a, Refusal)]
    assert 0 < len(refused) < 8 and {a.code for a in refused} == {"UNAVAILABLE"}
    assert refused[0].text == (
        "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued "
        "and max_enqueued_batches is 2"
    )
    assert statuses == {200, 503}
    assert not isinstance(wire.predict("slow", SLOW), Refusal)


def test_a_request_that_waits_longer_than_its_deadline_is_let_go(start, slow):
    _, wire, _ = start(f"--model_base_path={slow}", "--model_name=slow", "--grpc_max_threads=1")
    with ThreadPoolExecutor(4) as pool:
        held = [pool.submit(wire.predict, "slow", SLOW) for _ in range(3)]
        time.sleep(0.1)
        assert wire.predict("slow", SLOW, timeout_s=0.2).code == "DEADLINE_EXCEEDED"
        assert all(not isinstance(h.result(), Refusal) for h in held)


def test_a_model_stops_when_nobody_waits_any_more(start, tmp_path):
    base = models.slow(tmp_path / "slow", ms=5000).parent
    half = models.half_plus_two(tmp_path / "half").parent
    (tmp_path / "models.config").write_text(models_config(("slow", base), ("half", half)))
    _, wire, _ = start(f"--model_config_file={tmp_path}/models.config", "--grpc_max_threads=1")
    started = time.monotonic()
    assert wire.predict("slow", SLOW, timeout_s=0.3).code == "DEADLINE_EXCEEDED"
    assert wire.outputs("half", SLOW) == {"y": [2.0]}  # the one place in a model is free again
    assert time.monotonic() - started < 4


def test_rest_gives_up_a_model_that_takes_too_long(start, slow):
    server, _, _ = start(f"--model_base_path={slow}", "--model_name=slow", "--rest_api_timeout_in_ms=50")
    assert server.post("/v1/models/slow:predict", {"instances": [1.0]}).status == 504


def test_slow_senders_harm_no_one_and_ours_cuts_them_off(start, binary, half):
    server, _, _ = start(f"--model_base_path={half}", "--rest_api_timeout_in_ms=300")
    head = b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n{"
    senders = [socket.create_connection(("localhost", server.rest_port)) for _ in range(20)]
    for number, sender in enumerate(senders):
        sender.sendall(head if number % 2 else head[:30])
    reply = server.post("/v1/models/default:predict", {"instances": [0.0]})
    assert reply.json() == {"predictions": [2.0]}
    for number, sender in enumerate(senders):
        sender.settimeout(10)
        if not binary:
            said = sender.recv(100)
            assert said.startswith(b"HTTP/1.1 504") if number % 2 else said == b""
        sender.close()


def test_requests_that_are_still_arriving_do_not_count_as_running(start, half):
    """One thread has room for 17 requests; 60 senders take none of it."""
    server, _, _ = start(f"--model_base_path={half}", "--rest_api_num_threads=1")
    head = b"POST /v1/models/default:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"
    with ExitStack() as senders:
        for _ in range(60):
            senders.enter_context(socket.create_connection(("localhost", server.rest_port))).sendall(head)
        time.sleep(0.2)
        reply = server.post("/v1/models/default:predict", {"instances": [0.0]})
        assert reply.json() == {"predictions": [2.0]}


def all_right(pairs: list[tuple[float, float]]) -> bool:
    return len(pairs) > 20 and all(answer == number / 2 + 2 for number, answer in pairs)


@pytest.mark.slow
def test_nothing_is_lost_when_a_server_is_killed_under_load(binary, half):
    with (
        ChildServer(half, "half", command=(binary,) if binary else OURS) as server,
        Client(server.address, model="half", timeout_s=120) as client,
    ):

        def kill_and_restart() -> None:
            time.sleep(1.0)
            server.kill()
            server.start()
            time.sleep(1.0)

        assert all_right(load_while(client, kill_and_restart))


def test_an_overloaded_server_refuses_and_recovers(start, half, tmp_path):
    """A queue for two requests and forty callers: refusals are retried, and later none is needed."""
    server, _, _ = start(f"--model_base_path={half}", "--model_name=half", *short_queue(tmp_path))
    with Client(server.address, model="half", timeout_s=60) as client:
        assert all_right(load_while(client, lambda: time.sleep(1.0), threads=40))
    with Client(server.address, model="half", retry=NO_RETRY) as client:
        for number in range(20):
            assert client.predict({"x": np.array([number], np.float32)})["y"][0] == number / 2 + 2
