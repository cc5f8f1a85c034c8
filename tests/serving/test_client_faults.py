"""Servers that die under load: a client with retries loses nothing."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pergola.serving.client import Client, ServerError
from pergola.serving.tools.child_server import ChildServer, free_port
from tests.support.callers import load_while

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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_child_server_says_why_it_did_not_come_up(tmp_path):
    command = (sys.executable, "-c", "raise SystemExit('the model is broken')")
    with pytest.raises(ServerError, match=r"did not come up\. Its log ends: the model is broken"):
        ChildServer(tmp_path, "double", command=command).__enter__()
