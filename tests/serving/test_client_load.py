"""The load generator and the tuner, over server processes that answer without TensorFlow."""

import sys

import grpc
import numpy as np
import pytest

from pergola.serving.client import InvalidInput
from pergola.serving.tools.batching_search import tune_batching
from pergola.serving.tools.child_server import ChildServer
from pergola.serving.tools.load_test import Load, LoadResult, generate, measure
from pergola.serving.wire.protos import predict_pb2
from pergola.serving.wire.values import to_tensor
from tests.support.scripted_server import ScriptedServer

SCRIPTED = (sys.executable, "-m", "tests.support.scripted_server")


@pytest.fixture
def request_message() -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "leaves", "serving_default"
    request.inputs["image"].CopyFrom(to_tensor([b"a"]))
    return request


@pytest.mark.parametrize("through_client", [False, True], ids=["wire", "client"])
def test_load_counts_what_is_answered_in_its_time(request_message, through_client):
    with ScriptedServer() as server:
        server.delay_s = 0.05
        load = Load(server.address, request_message, 4, 1.0, warmup_s=0.2, through_client=through_client)
        result = measure(load)
        assert server.most_under_way == 4
        assert len(server.requests) > len(result.latency_ms) > 0, "the warm-up is sent and not counted"
    assert result.requests_per_s <= 4 / 0.05
    assert 50 <= result.p50_ms <= result.p99_ms
    assert (result.num_failures, result.seconds) == (0, 1.0)
    assert result.cpu_s > 0


def test_load_counts_failures_by_what_was_said(request_message):
    with ScriptedServer() as server:
        server.failures = [(grpc.StatusCode.UNAVAILABLE, "queue is full")] * 3
        result = generate(Load(server.address, request_message, 1, 0.3, warmup_s=0.0))
    assert dict(result.failures) == {"StatusCode.UNAVAILABLE: queue is full": 3}
    assert len(result.latency_ms) > 0


def test_load_result_between_takes_what_was_under_way():
    started = np.array([0.0, 1.0, 2.0, 3.0])
    result = LoadResult(4.0, started, np.array([500.0, 1500.0, 100.0, 100.0]))
    assert result.between(2.2, 2.9).started_s.tolist() == [1.0]
    assert result.between(2.0, 3.0).started_s.tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(result.between(9.0, 10.0).p99_ms)


@pytest.mark.slow
def test_tune_batching_starts_measures_and_saves(tmp_path):
    trials = []
    tuning = tune_batching(
        tmp_path,
        "leaves",
        {"image": [b"a"]},
        concurrency=4,
        seconds=0.4,
        command=SCRIPTED,
        on_trial=trials.append,
    )
    assert tuple(trials) == tuning.trials
    assert tuning.without.parameters is None
    assert tuning.without.requests_per_s <= 1 / 0.02
    assert tuning.best.requests_per_s > 2 * tuning.without.requests_per_s
    tuning.save(tmp_path / "batching.txt")
    assert (
        f"max_batch_size {{ value: {tuning.best.parameters.max_batch_size} }}"
        in (tmp_path / "batching.txt").read_text()
    )


def test_tune_batching_refuses_settings_that_measure_nothing(tmp_path):
    with pytest.raises(InvalidInput, match=r"concurrency 0 and seconds 4\.0 must be above 0"):
        tune_batching(tmp_path, "leaves", {"image": [b"a"]}, concurrency=0)


@pytest.mark.slow
def test_child_server_can_be_killed_and_started_again(tmp_path):
    with ChildServer(tmp_path, "leaves", command=SCRIPTED) as server:
        first = server.pid
        assert server.cpu_s() > 0
        server.kill()
        server.start()
        assert server.pid != first
    with pytest.raises(RuntimeError, match="is not running"):
        assert server.pid
