"""The client's protocol without a transport: its flows, resumed by hand with a clock that the test moves."""

import grpc
import numpy as np
import pytest

from pergola.serving.client import ClientLog, DeadlineExceeded, InvalidInput, Retry, TooLarge, Unavailable
from pergola.serving.client.channel import Connection
from pergola.serving.client.classify import classify
from pergola.serving.client.effects import END, Attempt, IsConnected, Next, Pause, Start, WaitFor, Work
from pergola.serving.client.protocol import ModelProtocol
from pergola.serving.wire.protos import manage_pb2, predict_pb2
from pergola.serving.wire.values import to_tensor

IMAGE = {"image": [b"a"]}


class Clock:
    """Seconds that the test moves on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Failed(grpc.aio.AioRpcError):
    """A failed call, as grpc.aio raises it."""

    def __init__(self, code: str, details: str) -> None:
        empty = grpc.aio.Metadata()
        super().__init__(grpc.StatusCode[code], empty, empty, details)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def protocol(clock) -> ModelProtocol:
    return make(clock)


def make(clock: Clock, **options) -> ModelProtocol:
    settings = {"version": None, "label": None, "timeout_s": 10.0, "retry": None, "connection": None}
    settings |= {"log": None, "token": None}
    return ModelProtocol("localhost:8500", "leaves", clock=clock, **settings | options)


def reply(version: int = 3, **outputs) -> bytes:
    response = predict_pb2.PredictResponse()
    response.model_spec.name, response.model_spec.version.value = "leaves", version
    for name, value in outputs.items():
        response.outputs[name].CopyFrom(to_tensor(value))
    return response.SerializeToString()


def result(flow, value):
    """What the flow returns when it is given `value` last."""
    with pytest.raises(StopIteration) as stop:
        flow.send(value)
    return stop.value.value


def test_predict_is_one_attempt_with_the_time_that_is_left(protocol):
    flow = protocol.at(version=3).predict(IMAGE, "serving_default", ["y"], 4.0)
    attempt = next(flow)
    assert isinstance(attempt, Attempt)
    assert (attempt.path, attempt.timeout_s) == ("/tensorflow.serving.PredictionService/Predict", 4.0)
    sent = predict_pb2.PredictRequest.FromString(attempt.payload)
    assert (sent.model_spec.name, sent.model_spec.version.value, list(sent.output_filter)) == (
        "leaves",
        3,
        ["y"],
    )
    assert result(flow, reply(y=[1.5]))["y"].tolist() == [1.5]


def test_failed_attempts_are_repeated_after_a_pause_until_the_deadline(clock):
    flow = make(clock, retry=Retry(first_pause_s=1.0, max_pause_s=4.0)).predict(IMAGE, "s", (), 10.0)
    left, pauses = [next(flow).timeout_s], []
    with pytest.raises(Unavailable, match=r"tried 4 times within 10 s: queue is full"):
        while True:
            clock.now += 2.5
            pauses.append(flow.throw(Failed("UNAVAILABLE", "queue is full")))
            left.append(flow.send(None).timeout_s)
    assert left == [10.0, 7.5, 5.0, 2.5]
    assert all(isinstance(pause, Pause) and 0 <= pause.seconds <= 4 for pause in pauses)


def test_deadline_is_told_apart_from_no_connection(protocol):
    for connected, kind in ((True, DeadlineExceeded), (False, Unavailable)):
        flow = protocol.status(1.0)
        next(flow)
        assert isinstance(flow.throw(Failed("DEADLINE_EXCEEDED", "Deadline Exceeded")), IsConnected)
        with pytest.raises(kind):
            flow.send(connected)


def test_refused_input_is_explained_by_the_metadata(protocol):
    flow = protocol.predict(IMAGE, "other", (), None)
    next(flow)
    lookup = flow.throw(Failed("INVALID_ARGUMENT", "no"))
    assert (lookup.path.rpartition("/")[2], lookup.timeout_s) == ("GetModelMetadata", 2.0)
    with pytest.raises(InvalidInput, match=r"no\. Sent: image: string \(1,\)\. It has the signatures"):
        flow.send(predict_pb2.GetModelMetadataResponse().SerializeToString())


def test_requests_that_cannot_be_sent_raise_before_the_flow_runs(clock):
    protocol = make(clock, connection=Connection(max_message_mib=1))
    with pytest.raises(TooLarge, match=r"has 2\.0 MiB"):
        protocol.predict({"image": [b"a" * 2**21]}, "s", (), None)
    with pytest.raises(InvalidInput, match="Expected a mapping"):
        protocol.predict([b"a"], "s", (), None)


def test_log_is_written_by_the_transport(clock, tmp_path):
    with ClientLog(tmp_path / "log") as log:
        flow = make(clock, log=log).predict(IMAGE, "s", (), None)
        next(flow)
        work = flow.send(reply(y=[1.0]))
        assert isinstance(work, Work) and not list(tmp_path.iterdir())
        work.function()
        assert result(flow, None).version == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_waiting_asks_for_the_status_until_its_time_is_over(protocol, clock):
    flow = protocol.wait_until_available(1.0, 0.4)
    loading = manage_pb2.GetModelStatusResponse()
    loading.model_version_status.add(version=5, state=manage_pb2.ModelVersionStatus.LOADING)
    attempts = [next(flow)]
    with pytest.raises(DeadlineExceeded, match="after 1 s: version 5 LOADING"):
        while True:
            pause = flow.send(loading.SerializeToString())
            clock.now += pause.seconds
            attempts.append(flow.send(None))
    assert [attempt.timeout_s for attempt in attempts] == pytest.approx([1.0, 0.6, 0.2])


class Done:
    """A future that has its result."""

    def __init__(self, answer) -> None:
        self._answer = answer

    def done(self) -> bool:
        return True

    def result(self):
        return self._answer

    def cancel(self) -> bool:
        return False


def perform(flow) -> tuple[object, list[type]]:
    """The result of a flow whose calls are answered at once, and the kinds of its effects."""
    answer = {
        "label": np.array([b"acer"], object),
        "probability": np.ones(1, np.float32),
        "probabilities": np.ones((1, 1), np.float32),
    }
    value, kinds = None, []
    while True:
        try:
            effect = flow.send(value)
        except StopIteration as done:
            return done.value, kinds
        kinds.append(type(effect))
        match effect:
            case Next(items):
                value = next(items, END)
            case Work(function):
                value = function()
            case Start(started):
                value = Done(perform(started)[0])
            case Attempt():
                value = reply(**answer)


def test_images_are_cut_into_requests_that_start_one_after_another(protocol):
    images = [np.zeros((4, 4), np.uint8)] * 3
    found, kinds = perform(classify(protocol, images, 2, 1, None))
    assert (found.version, found.classes) == (3, ("acer",))
    assert kinds.count(Start) == 2 and kinds.count(Work) == 3 and kinds.count(Attempt) == 1
    assert WaitFor not in kinds
