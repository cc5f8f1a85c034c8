"""The client against a gRPC server that does what it is told (tests/support/scripted_server.py)."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import grpc
import numpy as np
import pytest

from pergola.serving import client as module
from pergola.serving.client import (
    NO_RETRY,
    Cancelled,
    Client,
    ClientError,
    Connection,
    DeadlineExceeded,
    InvalidInput,
    NotAllowed,
    NotFound,
    Retry,
    ServedModel,
    ServerError,
    TooLarge,
    Unavailable,
    Unsupported,
)
from pergola.serving.wire.protos import manage_pb2
from tests.support.scripted_server import ScriptedServer

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue is full")


@pytest.fixture
def server():
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def client(server, connect):
    with connect(server.address, model="leaves", timeout_s=10) as client:
        yield client


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_predict_gives_outputs_with_the_version_that_made_them(client):
    prediction = client.predict({"image": [b"abc", b"abcd"]})
    assert prediction["label"].tolist() == [b"acer", b"quercus"]
    assert prediction["probabilities"].dtype == np.float32
    assert (prediction.model, prediction.version, prediction.signature) == ("leaves", 1, "serving_default")


def test_predict_requests_only_the_given_outputs(server, client):
    prediction = client.predict({"image": [b"abc"]}, outputs=["label"])
    assert list(prediction.outputs) == ["label"]
    assert list(server.requests[-1][1].output_filter) == ["label"]
    with pytest.raises(InvalidInput, match=r"has no output 'probabilities'\. Its outputs: label"):
        prediction["probabilities"]


def test_predict_sends_signature_version_and_label(server, client):
    server.versions = [1, 7]
    assert client.at(version=1).predict({"image": [b"a"]}).version == 1
    assert client.predict({"image": [b"a"]}).version == 7
    client.at(label="stable").predict({"index": np.array([0])}, signature="labels")
    spec = server.requests[-1][1].model_spec
    assert (spec.version_label, spec.signature_name, spec.HasField("version")) == ("stable", "labels", False)


def test_predict_of_a_missing_version_says_which_there_are(server, client):
    server.versions = [3, 4]
    with pytest.raises(NotFound, match=r"leaves version 9 .*It has version 4 \(AVAILABLE\), version 3"):
        client.at(version=9).predict({"image": [b"a"]})
    with pytest.raises(NotFound, match="does not serve roses"):
        client.at(model="roses").predict({"image": [b"a"]})


def test_predict_refused_says_what_came_and_what_was_expected(server, client):
    server.failures = [
        (grpc.StatusCode.INVALID_ARGUMENT, "Expects arg[0] to be string but double is provided")
    ]
    with pytest.raises(InvalidInput) as caught:
        client.predict({"image": np.zeros((2, 3))})
    text = str(caught.value)
    assert "Sent: image: float64 (2, 3)." in text
    assert "takes image: string (?,)" in text
    assert caught.value.details == "Expects arg[0] to be string but double is provided"
    server.failures = [(grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "x" not found.')]
    with pytest.raises(InvalidInput, match="It has the signatures serving_default"):
        client.predict({"image": [b"a"]}, signature="x")


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput, ValueError),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidInput, ValueError),
        (grpc.StatusCode.NOT_FOUND, NotFound, LookupError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded, TimeoutError),
        (grpc.StatusCode.PERMISSION_DENIED, NotAllowed, PermissionError),
        (grpc.StatusCode.UNAUTHENTICATED, NotAllowed, PermissionError),
        (grpc.StatusCode.UNIMPLEMENTED, Unsupported, Exception),
        (grpc.StatusCode.INTERNAL, ServerError, Exception),
        (grpc.StatusCode.DATA_LOSS, ServerError, Exception),
    ],
)
def test_every_status_becomes_an_error_of_ours(server, client, code, kind, builtin):
    server.failures = [(code, "the server's own text")]
    with pytest.raises(kind, match="the server's own text") as caught:
        client.predict({"image": [b"a"]})
    assert isinstance(caught.value, builtin) and isinstance(caught.value, ClientError)
    assert caught.value.details == "the server's own text"
    assert sum(name == "Predict" for name, _ in server.requests) == 1, "none of these is sent again"


def test_predict_is_sent_again_when_the_server_is_full(server, client):
    server.failures = [UNAVAILABLE] * 3
    assert client.predict({"image": [b"a"]}).version == 1
    assert len(server.requests) == 4


def test_exhausted_is_a_message_too_large_or_a_server_too_busy(server, client):
    server.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)")]
    with pytest.raises(TooLarge, match=r"Raise Connection\(max_message_mib"):
        client.predict({"image": [b"a"]})
    server.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many requests")] * 2
    assert client.predict({"image": [b"a"]}).version == 1
    server.failures = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many requests")] * 1000
    with pytest.raises(Unavailable, match="Too many requests"):
        client.predict({"image": [b"a"]}, timeout_s=0.3)


def test_predict_is_sent_again_when_a_server_shuts_down_over_it(server, client):
    server.failures = [
        (grpc.StatusCode.CANCELLED, "CANCELLED"),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed"),
    ]
    assert client.predict({"image": [b"a"]}).version == 1


def test_predict_without_retries_fails_at_once(server, connect):
    server.failures = [UNAVAILABLE]
    with (
        connect(server.address, model="leaves", retry=NO_RETRY) as client,
        pytest.raises(Unavailable, match="tried once"),
    ):
        client.predict({"image": [b"a"]})
    assert len(server.requests) == 1


def test_predict_gives_up_at_its_deadline(server, client):
    server.delay_s = 5
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        client.predict({"image": [b"a"]}, timeout_s=0.2)
    assert time.monotonic() - started < 2
    server.delay_s = 0


def test_retries_end_at_the_deadline(free_port, connect):
    with connect(f"127.0.0.1:{free_port}", model="leaves", timeout_s=2) as client:
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"tried \d+ times within 2 s: .*Connection refused"):
            client.predict({"image": [b"a"]})
        assert 1 < time.monotonic() - started < 6


def test_predict_finds_a_server_that_comes_later(free_port, connect):
    with connect(f"127.0.0.1:{free_port}", model="leaves", timeout_s=20) as client:
        future = client.predict_async({"image": [b"a"]})
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.predict, {"image": [b"a"]})
            time.sleep(0.5)
            with ScriptedServer(address=f"127.0.0.1:{free_port}"):
                assert waiting.result().version == 1
                assert future.result(timeout=20).version == 1


def test_predict_async_is_sent_again(server, client):
    server.failures = [UNAVAILABLE] * 3
    assert client.predict_async({"image": [b"a"]}).result(timeout=10).version == 1
    assert len(server.requests) == 4


def test_predict_async_carries_its_error(server, client):
    server.failures = [(grpc.StatusCode.INVALID_ARGUMENT, "no")]
    with pytest.raises(InvalidInput, match="Sent: image: string"):
        client.predict_async({"image": [b"a"]}).result(timeout=10)


def test_predict_async_can_be_cancelled(server, client):
    server.delay_s = 3
    started = time.monotonic()
    future = client.predict_async({"image": [b"a"]})
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(timeout=1)
    assert time.monotonic() - started < 1
    server.delay_s = 0


def test_predict_async_can_be_awaited(client):
    async def ask() -> list[int]:
        futures = [asyncio.wrap_future(client.predict_async({"image": [b"a"]})) for _ in range(8)]
        return [prediction.version for prediction in await asyncio.gather(*futures)]

    assert asyncio.run(ask()) == [1] * 8


def test_predict_many_keeps_the_order_and_fills_the_line(server, client):
    server.delay_s = 0.02
    requests = ({"image": [b"a" * (i % 3 + 1)]} for i in range(40))
    labels = [p["label"][0] for p in client.predict_many(requests, in_flight=8)]
    assert labels == [(b"quercus", b"tilia", b"acer")[i % 3] for i in range(40)]
    assert 4 <= server.most_under_way <= 8


def test_predict_many_takes_requests_only_as_there_is_room(server, client):
    taken = []

    def requests():
        for i in range(1000):
            taken.append(i)
            yield {"image": [b"a"]}

    answers = client.predict_many(requests(), in_flight=4)
    next(answers)
    assert len(taken) <= 17
    answers.close()


def test_predict_many_raises_in_its_turn_and_gives_up_the_rest(server, client):
    server.answer = lambda inputs, signature: (_ for _ in ()).throw(ValueError("bad image"))
    answers = client.predict_many([{"image": [b"a"]}] * 3)
    with pytest.raises(InvalidInput, match="bad image"):
        next(answers)


def test_outputs_are_names_and_not_the_letters_of_one(server, client):
    inputs = {"image": [b"a"]}
    with pytest.raises(InvalidInput, match=r"outputs is the text 'label', expected a list of names"):
        client.predict(inputs, outputs="label")
    with pytest.raises(InvalidInput, match=r"outputs is the text 'label', expected a list of names"):
        next(client.predict_many([inputs], outputs="label"))


def test_predict_works_from_many_threads(server, client):
    with ThreadPoolExecutor(16) as pool:
        labels = pool.map(lambda n: client.predict({"image": [b"a" * n]})["label"][0], range(1, 200))
        assert list(labels) == [(b"acer", b"quercus", b"tilia")[n % 3] for n in range(1, 200)]


def test_large_messages_pass_in_both_directions(server, client):
    server.answer = lambda inputs, signature: {"image": inputs["image"]}
    pixels = np.arange(24 * 2**20, dtype=np.uint8).reshape(8, 1024, 1024, 3)
    assert np.array_equal(client.predict({"image": pixels})["image"], pixels)


def test_messages_over_the_limit_are_refused_before_they_are_sent(server, connect):
    with connect(server.address, model="leaves", connection=Connection(max_message_mib=1)) as client:
        with pytest.raises(TooLarge, match=r"has 2\.0 MiB, more than the 1 MiB"):
            client.predict({"image": [b"a" * 2**21]})
        assert not server.requests
        server.answer = lambda inputs, signature: {"big": np.zeros(2**20, np.float32)}
        with pytest.raises(TooLarge, match="Raise Connection"):
            client.predict({"image": [b"a"]})


def test_answers_that_are_no_messages_are_told(server, client):
    server.answer = lambda inputs, signature: b"\xff\xff\xff"
    with pytest.raises(ServerError, match="3 bytes that are not a reply to Predict"):
        client.predict({"image": [b"a"]})
    with pytest.raises(ServerError, match="not a reply to Predict"):
        client.predict_async({"image": [b"a"]}).result(timeout=10)


def test_status_lists_the_newest_first(server, client):
    states = manage_pb2.ModelVersionStatus
    server.status = [
        states(
            version=1, state=states.END, status=manage_pb2.StatusProto(error_code=13, error_message="corrupt")
        ),
        states(version=2, state=states.AVAILABLE),
    ]
    first, second = client.status()
    assert (first.version, first.state, first.available) == (2, "AVAILABLE", True)
    assert (second.version, second.state, second.error) == (1, "END", "corrupt")
    with pytest.raises(NotFound, match="does not serve roses"):
        client.at(model="roses").status()


def test_metadata_tells_types_and_shapes(client):
    metadata = client.metadata()
    assert (metadata.model, metadata.version) == ("leaves", 1)
    assert str(metadata.signatures["serving_default"].inputs["image"]) == "string (?,)"


def test_reload_sends_the_whole_list(server, client):
    client.reload(
        [
            ServedModel("leaves", "/models/leaves", versions=[3, 4], labels={"stable": 3}),
            ServedModel("food", "/models/food", versions="all"),
            ServedModel("digits", "/models/digits", num_latest=2),
        ]
    )
    configs = server.requests[-1][1].config.model_config_list.config
    assert [c.name for c in configs] == ["leaves", "food", "digits"]
    assert list(configs[0].model_version_policy.specific.versions) == [3, 4]
    assert dict(configs[0].version_labels) == {"stable": 3}
    assert configs[1].model_version_policy.WhichOneof("policy_choice") == "all"
    assert configs[2].model_version_policy.latest.num_versions == 2
    assert {c.model_platform for c in configs} == {"tensorflow"}


def test_reload_that_may_have_arrived_is_not_sent_again(server, client):
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")] * 2
    with pytest.raises(Unavailable, match="tried once"):
        client.reload([ServedModel("leaves", "/models/leaves")])
    assert len(server.requests) == 1


def test_reload_that_never_left_is_sent_again(free_port, connect):
    with (
        connect(f"127.0.0.1:{free_port}", model="leaves", timeout_s=20) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        waiting = pool.submit(client.reload, [ServedModel("leaves", "/models/leaves")])
        time.sleep(0.3)
        with ScriptedServer(address=f"127.0.0.1:{free_port}") as server:
            waiting.result()
            assert [name for name, _ in server.requests] == ["HandleReloadConfigRequest"]


def test_reload_refused_carries_the_reason(server, client):
    server.reload_error = (3, "base path is relative")
    with pytest.raises(InvalidInput, match="base path is relative"):
        client.reload([ServedModel("leaves", "/models/leaves")])
    for bad, words in (
        (ServedModel("leaves", "models"), "must be absolute"),
        (ServedModel("leaves", "/m", versions="newest"), "expected None, 'all' or numbers"),
    ):
        with pytest.raises(InvalidInput, match=words):
            client.reload([bad])


def test_wait_until_available_waits_and_says_what_it_saw(server, client):
    states = manage_pb2.ModelVersionStatus
    server.status = [states(version=5, state=states.LOADING)]
    with pytest.raises(DeadlineExceeded, match="version 5 LOADING"):
        client.wait_until_available(timeout_s=0.4)
    threading.Timer(0.3, lambda: server.status.append(states(version=4, state=states.AVAILABLE))).start()
    assert client.wait_until_available() == 4
    broken = manage_pb2.StatusProto(error_code=13, error_message="corrupt")
    server.status = [states(version=5, state=states.END, status=broken)]
    with pytest.raises(ServerError, match=r"did not load .*corrupt"):
        client.at(version=5).wait_until_available()


def test_calls_are_spread_over_all_servers(connect):
    with ScriptedServer() as one, ScriptedServer() as other:
        with connect([one.address, other.address], model="leaves") as client:
            for _ in range(40):
                client.predict({"image": [b"a"]})
        assert min(len(one.requests), len(other.requests)) >= 10


def test_calls_go_on_when_one_of_two_servers_dies(connect):
    with (
        ScriptedServer() as one,
        ScriptedServer() as other,
        connect([one.address, other.address], model="leaves") as client,
    ):
        futures = []
        for i in range(200):
            futures.append(client.predict_async({"image": [b"a"]}))
            if i == 100:
                one.stop()
        assert {future.result(timeout=20).version for future in futures} == {1}


def test_calls_skip_an_address_where_nothing_answers(server, free_port, connect):
    with connect([f"127.0.0.1:{free_port}", server.address], model="leaves", timeout_s=10) as client:
        assert [client.predict({"image": [b"a"]}).version for _ in range(20)] == [1] * 20


def test_unix_sockets_work(tmp_path, connect):
    address = f"unix:{tmp_path}/socket"
    with ScriptedServer(address=address), connect(address, model="leaves") as client:
        assert client.predict({"image": [b"a"]}).version == 1


def test_close_ends_what_is_in_flight(server, connect):
    server.delay_s = 3
    client = connect(server.address, model="leaves")
    futures = [client.predict_async({"image": [b"a"]}) for _ in range(3)]
    started = time.monotonic()
    client.close()
    wait_for(futures, timeout=2)
    assert time.monotonic() - started < 2
    assert all(isinstance(future.exception(), Cancelled) for future in futures)
    with pytest.raises(Cancelled, match="This client is closed"):
        client.predict({"image": [b"a"]})
    server.delay_s = 0


def test_close_ends_retries_that_wait(free_port, connect):
    client = connect(f"127.0.0.1:{free_port}", model="leaves", timeout_s=60)
    future = client.predict_async({"image": [b"a"]})
    time.sleep(0.3)
    client.close()
    with pytest.raises((Cancelled, Unavailable)):
        future.result(timeout=5)


def test_a_full_server_recovers_at_once(server, connect):
    """Overload: quick refusals, retried with growing pauses; nothing is lost when it has room again."""
    server.failures = [UNAVAILABLE] * 200
    with connect(server.address, model="leaves", timeout_s=30) as client:
        futures = [client.predict_async({"image": [b"a"]}) for _ in range(100)]
        assert all(future.result(timeout=30).version == 1 for future in futures)
    assert len(server.requests) == 300


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Client("localhost:8500", model=""), "name of the model is empty"),
        (lambda: Client("localhost:8500", model="m", version=1, label="x"), "Pin one of them"),
        (lambda: Client("localhost:8500", model="m", version=-1), "is negative"),
        (lambda: Client("localhost:8500", model="m", timeout_s=0), "timeout_s is 0"),
    ],
)
def test_client_refuses_settings_that_cannot_work(make, words):
    with pytest.raises(InvalidInput, match=words):
        make()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.predict(np.zeros(3)), "Expected a mapping of input names"),
        (lambda c: c.predict({"image": [[1], [2, 3]]}), "Input 'image': Got rows of different lengths"),
        (lambda c: c.predict({"image": [b"a"]}, outputs="label"), r"\['label'\]"),
        (lambda c: c.predict({"image": [b"a"]}, timeout_s=-1), "timeout_s is -1"),
        (lambda c: list(c.predict_many([{"image": [b"a"]}], in_flight=0)), "in_flight is 0"),
    ],
)
def test_calls_refuse_input_that_cannot_be_sent(server, client, call, words):
    with pytest.raises(InvalidInput, match=words):
        call(client)
    assert not server.requests


def test_public_names_are_those_of_the_docs():
    assert all(hasattr(module, name) for name in module.__all__)
    assert Retry().max_attempts > 1


def test_import_is_light():
    """0.25 s and 70 MB are the promise; CPU seconds, since wall time depends on the neighbours."""
    code = """
import resource, sys
import pergola.serving.client.client
peak_kb = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
heavy = {"tensorflow", "pandas", "PIL", "ml_dtypes", "hypothesis", "tensorflow_serving"} & set(sys.modules)
usage = resource.getrusage(resource.RUSAGE_SELF)
print(peak_kb / 1024, usage.ru_utime + usage.ru_stime, *heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    megabytes, seconds, *heavy = done.stdout.split()
    assert not heavy
    assert float(megabytes) < 70
    assert float(seconds) < 1.0
