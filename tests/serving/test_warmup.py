"""Warm-up requests are replayed before a version is served."""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from pergola.serving.server.config.errors import (
    BadRequest,
    Code,
    NotImplementedHere,
    RuntimeFailure,
    ServingError,
)
from pergola.serving.server.core import model
from pergola.serving.server.core.warmup import FILE, MAX_RECORDS, warm_up
from tests.support import models
from tests.support.wire import CLASSIFY, REGRESS, fill_input


class Counting:
    """A model that counts its runs."""

    def __init__(self, inner) -> None:
        self._inner = inner
        self.runs = 0
        self.signatures, self.signature_defs = inner.signatures, inner.signature_defs

    def run(self, feeds, fetches, timeout_ms=0):
        self.runs += 1
        return self._inner.run(feeds, fetches, timeout_ms)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def folder(tmp_path):
    return models.half_plus_two(tmp_path / "m")


def predict_log(values, signature="", alias="x"):
    entry = prediction_log_pb2.PredictionLog()
    request = entry.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "another", signature
    request.inputs[alias].CopyFrom(tf.make_tensor_proto(values))
    return entry


def write(folder, *entries) -> None:
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for entry in entries:
            writer.write(entry if isinstance(entry, bytes) else entry.SerializeToString())


def loaded(folder):
    return Counting(model.load(folder, model.RuntimeSettings()))


def test_no_file_is_no_warm_up(folder):
    assert warm_up(loaded(folder), folder) == 0


def test_each_record_runs_as_often_as_asked(folder):
    write(folder, predict_log([1.0]), predict_log([2.0, 3.0]))
    counting, reports = loaded(folder), []
    assert warm_up(counting, folder, 3, lambda *report: reports.append(report)) == 2
    assert counting.runs == 6
    assert [(path, code, records) for path, code, records, _ in reports] == [(str(folder), Code.OK, 2)]


def test_every_kind_of_request_is_replayed(tmp_path):
    folder = models.tf1(tmp_path / "m")
    entries = [prediction_log_pb2.PredictionLog() for _ in range(4)]
    rows = [{"x": 1.0}]
    classify, regress = entries[0].classify_log.request, entries[1].regress_log.request
    classify.model_spec.signature_name, regress.model_spec.signature_name = (
        "classify_x_to_y",
        "regress_x_to_y",
    )
    infer, session = entries[2].multi_inference_log.request, entries[3].session_run_log.request
    for signature, method in (("classify_x_to_y", CLASSIFY), ("regress_x_to_y", REGRESS)):
        infer.tasks.add(method_name=method).model_spec.signature_name = signature
    for request in (classify, regress, infer):
        fill_input(request.input, rows)
    session.feed.add(name="x:0").tensor.CopyFrom(tf.make_tensor_proto([[1.0]]))
    session.fetch.append("y:0")
    write(folder, *entries)
    counting = loaded(folder)
    assert warm_up(counting, folder) == 4 and counting.runs == 4


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        (predict_log([1.0], alias="q"), ServingError),
        (predict_log([1.0], signature="q"), ServingError),
        (b"\xff\xff garbage", BadRequest),
        (prediction_log_pb2.PredictionLog(), NotImplementedHere),
    ],
)
def test_a_record_that_fails_fails_the_load(folder, entry, error):
    write(folder, entry)
    with pytest.raises(error):
        warm_up(loaded(folder), folder)


def test_a_damaged_file_fails_the_load(folder):
    write(folder, predict_log([1.0]))
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-3])
    with pytest.raises(RuntimeFailure, match="TFRecord format"):
        warm_up(loaded(folder), folder)


def test_too_many_records_fail_the_load(folder):
    write(folder, *[predict_log([1.0])] * (MAX_RECORDS + 1))
    with pytest.raises(BadRequest, match=r"exceeds the maximum \(1000\)"):
        warm_up(loaded(folder), folder)
