"""The search for batching parameters, over made-up servers whose best setting is known."""

import pytest

from pergola.serving.client.errors import InvalidInput
from pergola.serving.tools.batching_search import BatchingParameters, BatchingTrial, search


def trial(parameters, per_second: float, p99_ms: float = 10.0, num_failures: int = 0) -> BatchingTrial:
    return BatchingTrial(parameters, per_second, p99_ms / 2, p99_ms, num_failures)


def likes(size: int, threads: int, wait: int, padded: bool, tried: list):
    """A server that gives most requests a second at one setting, and less with each step away from it."""

    def run(parameters: BatchingParameters | None) -> BatchingTrial:
        tried.append(parameters)
        if parameters is None:
            return trial(None, 100)
        wrong = (
            (parameters.max_batch_size != size)
            + (parameters.num_batch_threads != threads)
            + (parameters.batch_timeout_micros != wait)
            + (bool(parameters.allowed_batch_sizes) != padded)
        )
        return trial(parameters, 400 - 50 * wrong)

    return run


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("wait", [0, 1000, 5000, 20000])
@pytest.mark.parametrize("padded", [False, True])
def test_search_finds_the_best_setting(size, threads, wait, padded):
    tried = []
    tuning = search(likes(size, threads, wait, padded, tried), concurrency=32, num_cores=2)
    best = tuning.best.parameters
    assert (best.max_batch_size, best.num_batch_threads, best.batch_timeout_micros) == (size, threads, wait)
    assert bool(best.allowed_batch_sizes) == padded
    assert len(tried) == len(tuning.trials) <= 12


def test_search_measures_the_finalists_again():
    """A lucky trial does not win: the mean of two counts."""
    seen = []

    def run(parameters):
        seen.append(parameters)
        lucky = parameters is not None and seen.count(parameters) == 1 and len(seen) == 2
        return trial(parameters, 150 if lucky else 100)

    tuning = search(run, concurrency=8, num_cores=2)
    assert tuning.best.requests_per_s == 125
    assert seen.count(None) == 2


def test_search_keeps_the_latency_limit():
    def run(parameters):
        if parameters is None:
            return trial(None, 100, p99_ms=20)
        return trial(parameters, 10 * parameters.max_batch_size, p99_ms=5.0 * parameters.max_batch_size)

    assert search(run, 32, 2, max_p99_ms=90).best.parameters.max_batch_size == 16
    assert search(run, 32, 2).best.parameters.max_batch_size == 32
    with pytest.raises(InvalidInput, match=r"No setting kept p99 at 5 ms: the best had 20\.0 ms with 32"):
        search(run, 32, 2, max_p99_ms=5)


def test_search_never_chooses_a_setting_that_loses_requests():
    def run(parameters):
        failures = 0 if parameters is None else 3
        return trial(parameters, 100 if parameters is None else 900, num_failures=failures)

    tuning = search(run, 32, 2)
    assert tuning.best.parameters is None
    with pytest.raises(InvalidInput, match="Requests failed in every trial, 7 in the first"):
        search(lambda parameters: trial(parameters, 1, num_failures=7), 32, 2)


def test_search_tells_when_batching_does_not_pay(tmp_path):
    tuning = search(lambda parameters: trial(parameters, 100), 32, 2)
    with pytest.raises(InvalidInput, match="Batching does not help this model: nothing exceeds the 100"):
        tuning.save(tmp_path / "batching.txt")
    assert not list(tmp_path.iterdir())


def test_tuning_saves_the_file_that_tf_serving_reads(tmp_path):
    tuning = search(likes(32, 2, 1000, True, []), concurrency=32, num_cores=2)
    tuning.save(tmp_path / "batching.txt")
    assert (tmp_path / "batching.txt").read_text() == (
        "# 400 requests/s, p99 10.0 ms, 4.00 times as many as without batching\n"
        "max_batch_size { value: 32 }\n"
        "batch_timeout_micros { value: 1000 }\n"
        "num_batch_threads { value: 2 }\n"
        "max_enqueued_batches { value: 4 }\n"
        "allowed_batch_sizes: 1\n"
        "allowed_batch_sizes: 2\n"
        "allowed_batch_sizes: 4\n"
        "allowed_batch_sizes: 8\n"
        "allowed_batch_sizes: 16\n"
        "allowed_batch_sizes: 32\n"
    )


@pytest.mark.parametrize("concurrency", [1, 3, 100])
def test_search_leaves_room_in_the_queue_for_all_callers(concurrency):
    tried = []
    search(likes(0, 0, 0, False, tried), concurrency, num_cores=2)
    for parameters in filter(None, tried):
        assert parameters.max_batch_size >= 1
        assert parameters.max_batch_size * parameters.max_enqueued_batches >= concurrency
        sizes = parameters.allowed_batch_sizes
        assert not sizes or sizes[-1] == parameters.max_batch_size
