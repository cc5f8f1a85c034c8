"""Batching across requests, with models in Python."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pergola.serving.server.config.errors import (
    BadConfig,
    BadModel,
    BadRequest,
    BatchQueueFull,
    ShapesDiffer,
    TaskTooLarge,
)
from pergola.serving.server.core.batching import BatchedModel, BatchSettings, Scheduler, read_settings
from pergola.serving.server.core.model import Signature


class Doubler:
    """x -> y = 2 x; notes how many rows each run had."""

    signatures = {"s": Signature("s", "", {"x": "x:0"}, {"y": "y:0"}, {"x": 1})}  # noqa: RUF012
    signature_defs = None

    def __init__(self) -> None:
        self.runs: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def run(self, feeds, fetches, timeout_ms=0):
        self.gate.wait(10)
        self.runs.append(len(feeds["x:0"]))
        return [feeds["x:0"] * 2 for _ in fetches]

    def close(self) -> None:
        self.closed = True


class Batched:
    """A batched Doubler, and requests to it."""

    def __init__(self, **settings) -> None:
        self.model = Doubler()
        chosen = BatchSettings(**{"num_threads": 1, **settings})
        self.reports: list[tuple] = []
        self.scheduler = Scheduler(chosen, lambda *report: self.reports.append(report))
        self.batched = BatchedModel("m", self.model, chosen, self.scheduler)
        self.pool = ThreadPoolExecutor(32)

    def ask(self, array):
        return self.batched.run({"x:0": np.asarray(array)}, ["y:0"])[0]

    def later(self, array):
        return self.pool.submit(self.ask, array)

    def together(self, arrays):
        """Answers of requests that wait behind one that holds the model."""
        self.model.gate.clear()
        first = self.later(np.zeros((1, *np.asarray(arrays[0]).shape[1:])))
        until(lambda: not self.scheduler._queues and first.running())
        time.sleep(0.05)
        futures = []
        for array in arrays:
            futures.append(self.later(array))
            time.sleep(0.02)
        self.model.gate.set()
        first.result(10)
        return futures


def until(condition, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def make():
    made = []

    def build(**settings) -> Batched:
        made.append(Batched(**settings))
        return made[-1]

    yield build
    for batched in made:
        batched.model.gate.set()
        batched.scheduler.close()
        batched.pool.shutdown()


def test_requests_that_wait_together_run_together_and_get_their_own_rows(make):
    batched = make()
    answers = batched.together([[[1.0]], [[2.0], [3.0]], [[4.0]]])
    assert [a.result(10).tolist() for a in answers] == [[[2.0]], [[4.0], [6.0]], [[8.0]]]
    assert batched.model.runs == [1, 4]


def test_a_batch_is_never_larger_than_the_maximum(make):
    batched = make(max_batch_size=4)
    for answer in batched.together([np.ones((3, 1))] * 4):
        assert answer.result(10).shape == (3, 1)
    assert batched.model.runs == [1, 3, 3, 3, 3]


def test_a_timeout_lets_a_batch_fill(make):
    batched = make(max_batch_size=4, timeout_s=5)
    answers = [batched.later([[float(i)]]) for i in range(4)]
    assert [a.result(10).tolist() for a in answers] == [[[2.0 * i]] for i in range(4)]
    assert batched.model.runs == [4]


def test_a_timeout_ends(make):
    batched = make(max_batch_size=4, timeout_s=0.05)
    assert batched.ask([[1.0]]).tolist() == [[2.0]]


def test_batches_are_padded_to_an_allowed_size(make):
    batched = make(max_batch_size=8, allowed_sizes=(2, 4, 8))
    assert batched.ask(np.ones((3, 2))).shape == (3, 2)
    assert batched.model.runs == [4]


def test_a_task_larger_than_the_maximum_is_refused(make):
    with pytest.raises(TaskTooLarge, match="Task size 5 is larger than maximum input batch size 4"):
        make(max_batch_size=4).ask(np.ones((5, 1)))


def test_large_tasks_are_split_where_that_is_asked_for(make):
    batched = make(max_batch_size=8, split=True, max_execution_size=3)
    assert batched.ask(np.arange(8.0)).tolist() == (np.arange(8.0) * 2).tolist()
    assert batched.model.runs == [3, 3, 2]


def test_parts_fill_the_open_batch_first(make):
    batched = make(max_batch_size=8, split=True, max_execution_size=4)
    answers = batched.together([np.arange(3.0), np.arange(6.0)])
    assert [a.result(10).tolist() for a in answers] == [[0, 2, 4], [0, 2, 4, 6, 8, 10]]
    assert batched.model.runs == [1, 4, 4, 1]


def test_a_queue_without_room_for_all_parts_refuses_the_whole(make):
    batched = make(max_batch_size=8, split=True, max_execution_size=2, max_enqueued_batches=3)
    first, second = batched.together([np.arange(3.0), np.arange(4.0)])
    assert first.result(10).tolist() == [0, 2, 4]
    assert str(second.exception(10)) == (
        "The batch scheduling queue to which this task was submitted is full; task size is 4 but scheduling "
        "capacity is only 3 (num_enqueued_batches=2, max_enqueued_batches=3, open_batch_size=1, "
        "max_execution_batch_size=2)"
    )
    assert batched.model.runs == [1, 2, 1]


def test_a_full_queue_refuses_at_once_and_recovers(make):
    batched = make(max_batch_size=1, max_enqueued_batches=2)
    futures = batched.together([[[1.0]]] * 4)
    errors = [f.exception(10) for f in futures]
    assert [type(e) for e in errors] == [type(None), type(None), BatchQueueFull, BatchQueueFull]
    assert "currently 2 batches enqueued and max_enqueued_batches is 2" in str(errors[2])
    assert batched.ask([[3.0]]).tolist() == [[6.0]]


def test_different_shapes_are_refused_unless_padding_is_on(make):
    for answer in make().together([np.ones((1, 2)), np.ones((1, 3))]):
        assert isinstance(answer.exception(10), ShapesDiffer)
    answers = make(pad=True).together([np.ones((1, 2)), np.ones((1, 3))])
    assert [a.result(10).tolist() for a in answers] == [[[2.0, 2.0, 0.0]], [[2.0, 2.0, 2.0]]]


def test_padding_cannot_mend_different_ranks(make):
    for answer in make(pad=True).together([np.ones((1, 2)), np.ones((1, 2, 2))]):
        assert isinstance(answer.exception(10), BadRequest)


def test_a_request_of_another_dtype_spoils_no_other(make):
    batched = make()
    answers = batched.together([np.ones((1, 1), np.float32), np.ones((1, 1), np.int64)])
    assert [a.result(10).dtype for a in answers] == [np.float32, np.int64]


def test_inputs_must_agree_in_their_rows(make):
    batched = make()
    batched.model.signatures = {"s": Signature("s", "", {"a": "a:0", "b": "b:0"}, {"y": "y:0"}, {})}
    two = BatchedModel("m", batched.model, batched.scheduler.settings, batched.scheduler)
    for other, text in ((np.ones(3), "equal 0th-dimension"), (np.float32(1), "at least one dimension")):
        with pytest.raises(BadRequest, match=text):
            two.run({"a:0": np.ones(2), "b:0": np.asarray(other)}, ["y:0"])


def test_runs_outside_the_signatures_are_not_batched(make):
    batched = make()
    assert len(batched.batched.run({"x:0": np.ones(2)}, ["y:0", "z:0"])) == 2
    assert batched.reports == []


def test_a_model_that_gives_other_rows_is_named(make):
    batched = make()
    batched.model.run = lambda feeds, fetches, timeout_ms=0: [np.ones(7)]
    with pytest.raises(BadModel, match="0th dimension"):
        batched.ask(np.ones(2))


def test_an_error_reaches_every_request_of_its_batch(make):
    batched = make()

    def fail(feeds, fetches, timeout_ms=0):
        batched.model.gate.wait(10)
        raise BadRequest(message="no")

    batched.model.run = fail
    futures = [batched.later([[1.0]]) for _ in range(3)]
    assert [str(f.exception(10)) for f in futures] == ["no"] * 3


def test_a_batch_that_nobody_waits_for_is_not_run_and_others_get_the_longest_wait(make):
    batched = make(max_batch_size=1)
    timeouts = []
    double = batched.model.run
    batched.model.run = lambda feeds, fetches, timeout_ms=0: (
        timeouts.append(timeout_ms) or double(feeds, fetches)
    )
    batched.model.gate.clear()
    ask = batched.batched.run
    first = batched.pool.submit(ask, {"x:0": np.ones(1)}, ["y:0"])
    until(lambda: timeouts == [0])
    late = batched.pool.submit(ask, {"x:0": np.ones(1)}, ["y:0"], 20)
    patient = batched.pool.submit(ask, {"x:0": np.ones(1)}, ["y:0"], 5000)
    time.sleep(0.1)
    batched.model.gate.set()
    assert first.result(10)[0].tolist() == patient.result(10)[0].tolist() == [2.0]
    assert str(late.exception(10)) == "Run() timeout exceeded while waiting in batching queue"
    assert len(timeouts) == 2 and 3000 < timeouts[1] < 5000


def test_reports_tell_rows_and_waiting(make):
    batched = make()
    batched.ask(np.ones(3))
    until(lambda: batched.reports)
    model, pool, rows, waited = batched.reports[0]
    assert (model, pool, rows, len(waited)) == ("m", "model_server_batch_threads", 3, 1)


def test_read_settings_reads_the_stock_servers_file(tmp_path):
    file = tmp_path / "batching.txt"
    file.write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 5000 } num_batch_threads { value: 3 }\n"
        "max_enqueued_batches { value: 7 } allowed_batch_sizes: 64 allowed_batch_sizes: 128\n"
        "pad_variable_length_inputs: true"
    )
    assert read_settings(file) == BatchSettings(
        128, 0.005, 7, 3, "model_server_batch_threads", (64, 128), pad=True
    )
    assert read_settings(None).max_batch_size == 1000 and read_settings(None).max_enqueued_batches == 10


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("max_batch: 3", "no field named"),
        ("max_batch_size { value: 0 }", "at least 1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "must match max_batch_size"),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 4", "increasing order"),
    ],
)
def test_read_settings_refuses_and_names_the_file(tmp_path, text, reason):
    file = tmp_path / "batching.txt"
    file.write_text(text)
    with pytest.raises(BadConfig, match=reason) as caught:
        read_settings(file)
    assert str(file) in str(caught.value)
