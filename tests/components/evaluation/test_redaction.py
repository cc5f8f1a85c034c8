"""Images are removed from request logs, whatever kind of request holds them, while a server writes."""

import hashlib

import numpy as np
import pytest
from tensorflow_serving.apis import prediction_log_pb2

from pergola.components.errors import InputError
from pergola.components.evaluation.drift import redaction, request_log
from pergola.serving.wire import prediction_log

RNG = np.random.default_rng(0)
IMAGES = [bytes([number]) + RNG.bytes(90 + number) for number in range(40)]


def id_of(image):
    return hashlib.sha256(image).hexdigest()


def predict(*images):
    entry = prediction_log_pb2.PredictionLog()
    entry.predict_log.request.inputs["image"].dtype = 7
    entry.predict_log.request.inputs["image"].string_val.extend(images)
    entry.predict_log.response.outputs["label"].string_val.append(b"oak")
    return entry.SerializeToString()


def classify(image):
    entry = prediction_log_pb2.PredictionLog()
    example = entry.classify_log.request.input.example_list.examples.add()
    example.features.feature["image"].bytes_list.value.append(image)
    return entry.SerializeToString()


def written(path, records):
    path.write_bytes(b"".join(map(prediction_log.frame, records)))
    return path


def records_of(path):
    with open(path, "rb") as file:
        return list(prediction_log.records(file))


@pytest.mark.parametrize("record", [predict(IMAGES[0]), predict(IMAGES[1], IMAGES[0]), classify(IMAGES[0])])
def test_every_kind_of_request_is_found_and_overwritten(tmp_path, record):
    path = written(tmp_path / "log-1.tfrecord", [predict(IMAGES[2]), record, predict(IMAGES[3])])
    size = path.stat().st_size
    assert redaction.count_records(path, {id_of(IMAGES[0])}) == 1
    assert redaction.redact(path, {id_of(IMAGES[0])}) == 1
    first, blank, last = records_of(path)
    assert (first, last) == (predict(IMAGES[2]), predict(IMAGES[3]))
    assert not prediction_log_pb2.PredictionLog.FromString(blank).WhichOneof("log_type")
    assert IMAGES[0] not in path.read_bytes() and path.stat().st_size == size
    assert redaction.redact(path, {id_of(IMAGES[0])}) == 0
    assert list(request_log.read_log([path])) == []


@pytest.mark.parametrize("image", IMAGES, ids=len)
def test_padding_has_any_length(tmp_path, image):
    path = written(tmp_path / "log-1.tfrecord", [predict(image)])
    redaction.redact(path, {id_of(image)})
    (blank,) = records_of(path)
    assert prediction_log_pb2.PredictionLog.FromString(blank).ByteSize() > 0


def test_a_record_that_was_half_overwritten_is_overwritten_when_it_is_repeated(tmp_path):
    path = written(tmp_path / "log-1.tfrecord", [predict(IMAGES[0]), predict(IMAGES[2])])
    with open(path, "r+b") as file:
        file.seek(20)
        file.write(bytes(8))
    with pytest.raises(InputError, match="checksum does not fit"):
        list(request_log.read_log([path]))
    assert redaction.redact(path, {id_of(IMAGES[0])}) == 1
    assert records_of(path)[1] == predict(IMAGES[2]) and IMAGES[0][20:] not in path.read_bytes()


def test_a_server_goes_on_writing_to_a_redacted_file(tmp_path):
    path = tmp_path / "log-1.tfrecord"
    with open(path, "wb") as server:
        server.write(prediction_log.frame(predict(IMAGES[0])))
        server.write(prediction_log.frame(predict(IMAGES[1]))[:30])
        server.flush()
        assert redaction.redact(path, {id_of(IMAGES[0]), id_of(IMAGES[1])}) == 1
        server.write(prediction_log.frame(predict(IMAGES[1]))[30:])
        server.write(prediction_log.frame(predict(IMAGES[2])))
    assert records_of(path)[1:] == [predict(IMAGES[1]), predict(IMAGES[2])]


def test_what_is_no_log_is_named(tmp_path):
    path = tmp_path / "log-1.tfrecord"
    path.write_bytes(b"not a TFRecord file at all")
    with pytest.raises(InputError, match=r"log-1\.tfrecord cannot be read as a request log"):
        redaction.count_records(path, {"0" * 64})
