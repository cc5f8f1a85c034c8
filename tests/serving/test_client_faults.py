"""Servers that die under load: a client with retries loses nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.child_server import ChildServer, free_port
from serving.client import NO_RETRY, Client, ServerError

SCRIPTED = """
import sys, time
from tests.support.scripted_server import ScriptedServer
server = ScriptedServer(lambda inputs, signature: {"y": inputs["x"] * 2}, address=sys.argv[1])
print("up", flush=True)
time.sleep(120)
"""


class Doubler:
    """A server process without TensorFlow that can be killed and started again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.kill()

    def start(self) -> None:
        words = [sys.executable, "-c", SCRIPTED, f"127.0.0.1:{self._port}"]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "up\n"

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()


def ask_until(client: Client, stop: threading.Event, first: int, step: int) -> list[tuple[float, float]]:
    """(asked, answered) pairs: every request has a number of its own, so that a mix-up shows."""
    pairs = []
    number = float(first)
    while not stop.is_set():
        answer = client.predict({"x": np.array([number], np.float32)})["y"]
        pairs.append((number, float(answer[0])))
        number += step
    return pairs


def load_while(client: Client, action, *, threads: int = 8) -> list[tuple[float, float]]:
    """All pairs that `threads` callers got while `action` ran. An error in any of them is raised."""
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        callers = [pool.submit(ask_until, client, stop, i, threads) for i in range(threads)]
        try:
            action()
        finally:
            stop.set()
        return [pair for caller in callers for pair in caller.result()]


def test_nothing_is_lost_when_a_server_is_killed_and_comes_back():
    port = free_port()
    with Doubler(port) as server, Client(f"127.0.0.1:{port}", model="leaves", timeout_s=30) as client:

        def kill_twice() -> None:
            for _ in range(2):
                time.sleep(0.4)
                server.kill()
                time.sleep(0.3)
                server.start()
            time.sleep(0.5)

        pairs = load_while(client, kill_twice)
        assert len(pairs) > 20
        assert all(answer == 2 * number for number, answer in pairs)


def test_futures_survive_a_kill_as_well():
    port = free_port()
    with Doubler(port) as server, Client(f"127.0.0.1:{port}", model="leaves", timeout_s=30) as client:
        requests = ({"x": np.array([number], np.float32)} for number in range(2000))
        answers = client.predict_many(requests, in_flight=16)
        got = [float(next(answers)["y"][0]) for _ in range(100)]
        server.kill()
        server.start()
        got += [float(answer["y"][0]) for answer in answers]
        assert got == [2.0 * number for number in range(2000)]


@pytest.mark.slow
def test_nothing_is_lost_when_the_model_server_is_killed_under_load(doubling_model):
    with (
        ChildServer(doubling_model, "double") as server,
        Client(server.address, model="double", timeout_s=120) as client,
    ):

        def kill_and_restart() -> None:
            time.sleep(1.0)
            server.kill()
            server.start()
            time.sleep(1.0)

        pairs = load_while(client, kill_and_restart)
    assert len(pairs) > 20
    assert all(answer == 2 * number for number, answer in pairs)


@pytest.mark.slow
def test_an_overloaded_model_server_refuses_and_recovers(doubling_model, tmp_path):
    """A queue for two requests and forty callers: refusals are retried, and later none is needed."""
    batching = tmp_path / "batching.txt"
    batching.write_text(
        "max_batch_size { value: 1 }\nbatch_timeout_micros { value: 0 }\n"
        "num_batch_threads { value: 1 }\nmax_enqueued_batches { value: 2 }\n"
    )
    flags = ("--enable_batching", f"--batching_parameters_file={batching}")
    with ChildServer(doubling_model, "double", *flags) as server:
        with Client(server.address, model="double", timeout_s=60) as client:
            pairs = load_while(client, lambda: time.sleep(2.0), threads=40)
        assert len(pairs) > 20
        assert all(answer == 2 * number for number, answer in pairs)
        with Client(server.address, model="double", retry=NO_RETRY) as client:
            for number in range(20):
                assert client.predict({"x": np.array([number], np.float32)})["y"][0] == 2 * number


def test_child_server_says_why_it_did_not_come_up(tmp_path):
    command = (sys.executable, "-c", "raise SystemExit('the model is broken')")
    with pytest.raises(ServerError, match=r"did not come up\. Its log ends: the model is broken"):
        ChildServer(tmp_path, "double", command=command).__enter__()


@pytest.fixture(scope="module")
def doubling_model(tmp_path_factory):
    """x: float32 (N,) -> y, twice as much."""
    import tensorflow as tf

    base = tmp_path_factory.mktemp("double")
    module = tf.Module()
    spec = tf.TensorSpec([None], tf.float32, name="x")
    module.double = tf.function(lambda x: {"y": 2 * x}, input_signature=[spec])
    tf.saved_model.save(module, str(base / "1"), signatures={"serving_default": module.double})
    return base
