"""Requests that a server replays before it serves, and those that it keeps."""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.support import models
from tests.support.servers import models_config, until
from tests.support.wire import Refusal


def warm_up(folder, alias: str) -> None:
    """Write a warm-up file of one request into a version folder."""
    entry = prediction_log_pb2.PredictionLog()
    entry.predict_log.request.inputs[alias].CopyFrom(tf.make_tensor_proto([1.0]))
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(entry.SerializeToString())


def test_a_version_warms_up_before_it_serves_and_is_not_served_when_that_fails(start, tmp_path):
    base = tmp_path / "m"
    warm_up(models.half_plus_two(base), "x")
    (tmp_path / "monitoring.txt").write_text("prometheus_config { enable: true path: '/metrics' }")
    flags = (f"--model_base_path={base}", "--model_name=m", "--max_num_load_retries=0")
    server, wire, _ = start(*flags, f"--monitoring_config_file={tmp_path}/monitoring.txt")
    page = server.get("/metrics").body.decode()
    read = f':tensorflow:serving:model_warmup_records_read{{model_path="{base / "1"}"}} 1'
    assert any(line.removesuffix(".0") == read for line in page.splitlines())
    warm_up(models.half_plus_two(tmp_path / "next", 2), "q")
    (tmp_path / "next" / "2").rename(base / "2")
    until(lambda: wire.states("m").get(2) == "END")
    status = wire.status("m", version=2).model_version_status[0].status
    assert "not found in request" in status.error_message
    assert wire.outputs("m", {"x": [0.0]}) == {"y": [2.0]}
    _, wire, _ = start(*flags, "--enable_model_warmup=false")
    assert wire.states("m")[2] == "AVAILABLE"


def test_a_server_logs_what_came_by_grpc_and_by_rest(start, binary, tmp_path):
    if binary:
        pytest.skip("the stock server comes without a collector")
    log = tmp_path / "log"
    keep = 'logging_config {{ log_collector_config {{ type: "file" filename_prefix: "{}" }} {} }}'
    half, tf1 = (keep.format(log / name, "sampling_config { sampling_rate: 1 }") for name in ("half", "tf1"))
    models.half_plus_two(tmp_path / "half", 7)
    models.tf1(tmp_path / "tf1")
    entries = (("half", tmp_path / "half", half), ("tf1", tmp_path / "tf1", tf1))
    (tmp_path / "models.config").write_text(models_config(*entries))
    server, wire, _ = start(f"--model_config_file={tmp_path}/models.config")
    wire.predict("half", {"x": [1.0]})
    assert isinstance(wire.predict("half", {"x": [b"wrong"]}), Refusal)
    server.post("/v1/models/half:predict", {"instances": [2.0]})
    server.post("/v1/models/tf1:regress", {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]})
    wire.classify("tf1", [{"x": 2.0}], signature_name="classify_x_to_y")
    until(lambda: len(records(log)) == 4)
    found = records(log)
    kinds = [entry.WhichOneof("log_type") for entry in found]
    assert kinds == ["predict_log", "predict_log", "regress_log", "classify_log"]
    assert [entry.log_metadata.model_spec.version.value for entry in found] == [7, 7, 1, 1]
    for entry, value in zip(found[:2], (1.0, 2.0), strict=True):
        request, response = entry.predict_log.request, entry.predict_log.response
        assert tf.make_ndarray(request.inputs["x"]).tolist() == [value]
        assert tf.make_ndarray(response.outputs["y"]).tolist() == [value / 2 + 2]
    assert found[2].regress_log.response.result.regressions[0].value == 3.0
    assert found[2].regress_log.request.model_spec.signature_name == "regress_x_to_y"


def records(folder) -> list:
    """What the files hold by now, those of one model after those of another."""
    return [
        prediction_log_pb2.PredictionLog.FromString(record)
        for file in sorted(folder.glob("*.tfrecord"))
        for record in tf.compat.v1.io.tf_record_iterator(str(file))
    ]
