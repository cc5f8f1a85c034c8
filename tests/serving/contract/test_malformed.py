"""Requests that are broken in every way; the server lives, and answers good ones in between."""

from __future__ import annotations

import json
import random
import socket
import time
from collections import Counter

import grpc
import numpy as np
import pytest
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import predict_pb2

from tests.support.servers import ServerProcess
from tests.support.wire import Refusal, fill_spec, proto

SERVICE = "/tensorflow.serving."
METHODS = [
    *(f"{SERVICE}PredictionService/{name}" for name in ("Predict", "Classify", "Regress", "MultiInference")),
    f"{SERVICE}PredictionService/GetModelMetadata",
    f"{SERVICE}ModelService/GetModelStatus",
    f"{SERVICE}ModelService/HandleReloadConfigRequest",
    f"{SERVICE}Nothing/Here",
]
MODELS = {"half": "x", "leaves": "image", "conv": "image", "echo": "x", "two": "a"}
SIGNATURES = ["", "", "tensor", "labels", "embedding", "float32", "string", "bfloat16", "nope"]


class Storm:
    """Broken requests from a seed. Each method sends one and gives a word for what came back."""

    def __init__(self, target, seed: int) -> None:
        self._target = target
        self._draw = random.Random(seed)
        self._kept: list[socket.socket] = []
        self.kinds = [
            *(self.random_bytes, self.wrong_tensor, self.wrong_tensor, self.flipped_bits, self.huge_shape),
            *(self.rest_body, self.rest_body, self.deep_json, self.rest_path, self.raw_http, self.raw_grpc),
            *(self.slow_sender, self.rest_bytes),
        ]

    def one(self) -> str:
        kind = self._draw.choice(self.kinds)
        return f"{kind.__name__}: {kind()}"

    def close(self) -> None:
        for kept in self._kept:
            kept.close()

    def random_bytes(self) -> str:
        body = self._draw.randbytes(self._draw.choice([0, 1, 10, 300]))
        return _word(self._target.wire.raw(self._draw.choice(METHODS), body))

    def wrong_tensor(self) -> str:
        shape = [self._draw.choice([0, 1, 2, 3, 7]) for _ in range(self._draw.randrange(7))]
        dtype = self._draw.choice(
            [np.float32, np.float64, np.uint8, np.int64, np.bool_, np.complex64, object]
        )
        array = np.full(shape, b"x", object) if dtype is object else np.ones(shape, dtype)
        return self._predict(proto(array))

    def flipped_bits(self) -> str:
        request = self._request("half", "", proto(np.ones(8, np.float32)))
        body = bytearray(request.SerializeToString())
        for _ in range(self._draw.randrange(1, 4)):
            body[self._draw.randrange(len(body))] ^= 1 << self._draw.randrange(8)
        return _word(self._target.wire.raw(METHODS[0], bytes(body)))

    def huge_shape(self) -> str:
        tensor = TensorProto(dtype=self._draw.choice([1, 3, 7, 9, 10]), float_val=[1.0])
        for _ in range(self._draw.choice([1, 2, 70])):
            tensor.tensor_shape.dim.add(size=self._draw.choice([2**31, 2**40, 2**62, -5, 1]))
        return self._predict(tensor)

    def rest_body(self) -> str:
        values = [
            None,
            True,
            1e400,
            -1,
            "x",
            [],
            [[]],
            [1, "a"],
            [[1], [2, 3]],
            {"b64": "???"},
            {"b64": 1},
            2**70,
        ]
        body = {self._draw.choice(["instances", "inputs", "examples", "q"]): self._draw.choice(values)}
        if self._draw.random() < 0.3:
            body["signature_name"] = self._draw.choice(SIGNATURES)
        return self._post(self._draw.choice(list(MODELS)), json.dumps(body).encode())

    def rest_bytes(self) -> str:
        return self._post("half", self._draw.randbytes(self._draw.choice([1, 50, 5000])))

    def deep_json(self) -> str:
        depth = self._draw.choice([60, 70, 500, 30_000])
        return self._post("half", b'{"instances":' + b"[" * depth + b"1" + b"]" * depth + b"}")

    def rest_path(self) -> str:
        path = "/v1/" + "".join(self._draw.choice("models/:%2Fhalf\\..versions") for _ in range(20))
        return str(self._target.get(path.replace(" ", "")).status)

    def raw_http(self) -> str:
        heads = [
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/models/half:predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
            b"POST /v1/models/half:predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
            b"GET /v1/models/half HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
            self._draw.randbytes(200),
        ]
        return self._raw(self._target.server.rest_port, self._draw.choice(heads))

    def raw_grpc(self) -> str:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        data = self._draw.choice([b"", preface]) + self._draw.randbytes(self._draw.choice([9, 100]))
        return self._raw(self._target.server.grpc_port, data)

    def slow_sender(self) -> str:
        port = self._draw.choice([self._target.server.rest_port, self._target.server.grpc_port])
        connection = socket.create_connection((self._target.server.host, port), timeout=10)
        connection.sendall(b"POST /v1/models/half:predict HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{")
        self._kept.append(connection)
        if len(self._kept) > 30:
            self._kept.pop(0).close()
        return "kept"

    def _predict(self, tensor) -> str:
        model = self._draw.choice(list(MODELS))
        request = self._request(model, self._draw.choice(SIGNATURES), tensor)
        return _word(self._target.wire.send(self._target.wire.prediction.Predict, request))

    def _request(self, model: str, signature: str, tensor):
        request = predict_pb2.PredictRequest()
        fill_spec(request.model_spec, model, signature_name=signature)
        request.inputs[MODELS[model]].CopyFrom(tensor)
        return request

    def _post(self, model: str, body: bytes) -> str:
        method = self._draw.choice(["predict", "predict", "classify", "regress"])
        return str(self._target.post(f"/v1/models/{model}:{method}", body).status)

    def _raw(self, port: int, data: bytes) -> str:
        with socket.create_connection((self._target.server.host, port), timeout=10) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError:
                return "reset"
        return "closed"


def _word(answer) -> str:
    return answer.code if isinstance(answer, Refusal) else "OK"


def storm(target, count: int, seed: int) -> Counter:
    """Send `count` broken requests, with a good one on both ports after every fifty."""
    words: Counter = Counter()
    source = Storm(target, seed)
    try:
        for number in range(count):
            words[source.one()] += 1
            if number % 50 == 49:
                assert target.wire.outputs("half", {"x": [2.0]}, version=1)["y"].tolist() == [3.0]
                reply = target.post("/v1/models/half/versions/1:predict", {"instances": [2.0]})
                assert reply.json() == {"predictions": [3.0]}
    finally:
        source.close()
    if isinstance(target.server, ServerProcess):
        assert target.server.process.poll() is None
    return words


def test_broken_requests_do_no_harm(target):
    words = storm(target, 400, seed=1)
    bad = [word for word in words if word.endswith((": INTERNAL", ": 500", ": UNKNOWN"))]
    # Bytes that are no message at all are INTERNAL in gRPC itself, before any of our code.
    assert not [word for word in bad if not word.startswith(("random_bytes", "flipped_bits"))], words


UNPARSABLE = [
    *METHODS[:-1],
    "/grpc.health.v1.Health/Check",
    "/tensorflow.ProfilerService/Monitor",
]


def unparsable(target, count: int) -> set[str]:
    """Send messages that are none, and give the codes of the answers."""
    calls = [target.wire.channel.unary_unary(method) for method in UNPARSABLE]
    codes = set()
    for number in range(0, count, 100):
        pending = [calls[(number + i) % len(calls)].future(b"\xff" * 300, timeout=60) for i in range(100)]
        codes |= {call.code().name for call in pending if call.exception() is not None}
    return codes


def test_a_message_that_is_none_is_internal_without_a_traceback_and_without_a_leak(target):
    if not target.is_ours:
        assert unparsable(target, 1000) == {"INTERNAL"}
        return
    said = len(target.server.text())
    unparsable(target, 1000)
    before = target.server.resident_bytes()
    assert unparsable(target, 3000) == {"INTERNAL"}
    assert target.server.resident_bytes() - before < 10 << 20  # gRPC's own parsing would keep 50 MB
    assert target.server.text()[said:] == ""
    answer = target.wire.raw(METHODS[0], b"\xff")
    assert answer == Refusal("INTERNAL", "The request is not a tensorflow.serving.PredictRequest")


def test_the_answers_of_a_health_stream_to_a_message_that_is_none(target):
    stream = target.wire.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\xff" * 30, timeout=10)
    with pytest.raises(grpc.RpcError) as refused:
        list(stream)
    assert refused.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.slow
def test_fifty_thousand_unparsable_messages_leave_memory_as_it_was(target):
    if not isinstance(target.server, ServerProcess):
        pytest.skip("the memory of a server that somebody else started is out of sight")
    unparsable(target, 5000)
    before = target.server.resident_bytes()
    unparsable(target, 50_000)
    after = target.server.resident_bytes()
    assert after < before * 1.02, f"{before / 2**20:.0f} MiB became {after / 2**20:.0f} MiB"


@pytest.mark.slow
def test_twenty_thousand_broken_requests_leave_memory_as_it_was(target):
    if not isinstance(target.server, ServerProcess):
        pytest.skip("the memory of a server that somebody else started is out of sight")
    storm(target, 3000, seed=2)
    time.sleep(1)
    before = target.server.resident_bytes()
    storm(target, 20_000, seed=3)
    time.sleep(1)
    after = target.server.resident_bytes()
    assert after < before * 1.05, f"{before / 2**20:.0f} MiB became {after / 2**20:.0f} MiB"
