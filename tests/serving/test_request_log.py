"""The sampled log of requests."""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from pergola.serving.server.config.model_config import ModelConfig, RequestLogConfig
from pergola.serving.server.telemetry.metrics import Monitor
from pergola.serving.server.telemetry.request_log import PREDICT, RequestLog, RequestLogSettings


def records(folder: Path) -> list:
    found = []
    for path in sorted(folder.glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            found.append(prediction_log_pb2.PredictionLog.FromString(data))
    return found


def config(prefix, rate: float = 1.0) -> ModelConfig:
    return ModelConfig("m", Path("/m"), request_log=RequestLogConfig(str(prefix), rate))


def message(text: str = "x"):
    request = predict_pb2.PredictRequest()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([text]))
    return request


def add(log: RequestLog, text: str = "x") -> None:
    log.add("m", 3, "serving_default", PREDICT, message(text), predict_pb2.PredictResponse())


def test_records_carry_request_answer_and_version(tmp_path):
    log = RequestLog(Monitor(), ("serve",), clock=lambda: 1234.5)
    log.update([config(tmp_path / "deep" / "m")])
    add(log, "hello")
    log.close()
    (entry,) = records(tmp_path / "deep")
    metadata = entry.log_metadata
    assert (metadata.model_spec.name, metadata.model_spec.version.value) == ("m", 3)
    assert (metadata.model_spec.signature_name, metadata.timestamp_secs) == ("serving_default", 1234)
    assert metadata.sampling_config.sampling_rate == 1.0 and list(metadata.saved_model_tags) == ["serve"]
    assert entry.predict_log.request.inputs["x"].string_val == [b"hello"]


def test_sampling_follows_the_rate(tmp_path):
    draws = iter([0.1, 0.6, 0.4])
    log = RequestLog(Monitor(), draw=lambda: next(draws))
    log.update([config(tmp_path / "m", 0.5)])
    assert [log.should_log("m") for _ in range(3)] == [True, False, True]
    assert not log.should_log("another")
    log.update([])
    assert not log.should_log("m")
    log.close()


def test_a_full_queue_drops_and_counts_and_never_waits(tmp_path):
    monitor = Monitor()
    log = RequestLog(monitor, settings=RequestLogSettings(max_queued_bytes=0))
    log.update([config(tmp_path / "m")])
    add(log)
    log.close()
    assert records(tmp_path) == []
    assert b'pergola_request_log_dropped_total{model_name="m"} 1.0' in monitor.page()


def test_files_end_at_their_size(tmp_path):
    log = RequestLog(Monitor(), settings=RequestLogSettings(max_file_bytes=300))
    log.update([config(tmp_path / "m")])
    for _ in range(5):
        add(log, "y" * 100)
    log.close()
    assert len(records(tmp_path)) == 5 and len(list(tmp_path.iterdir())) >= 3


def test_a_folder_that_cannot_be_written_is_said_and_counted(tmp_path, caplog):
    (tmp_path / "file").touch()
    monitor = Monitor()
    log = RequestLog(monitor)
    log.update([config(tmp_path / "file" / "m")])
    add(log)
    log.close()
    assert "request log prefix=" in caplog.text
    assert (
        b':tensorflow:serving:request_log_count{model_name="m",status_code="INTERNAL"} 1.0' in monitor.page()
    )


def test_a_rate_of_zero_logs_nothing(tmp_path):
    log = RequestLog(Monitor())
    log.update([config(tmp_path / "m", 0.0)])
    assert not log.should_log("m")
