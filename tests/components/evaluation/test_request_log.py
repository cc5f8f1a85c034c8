"""The request log: what our server wrote and what TF-Serving's own messages say, read without TensorFlow."""

import os
import subprocess
import sys

import numpy as np
import pytest

from pergola.components.errors import InputError
from pergola.components.evaluation.drift import request_log
from tests.support import images

# Written by a process of its own, so that this one stays without TensorFlow.
WRITE = """
import sys
import numpy as np, tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

def entry(images, version, at, kind="predict_log"):
    log = prediction_log_pb2.PredictionLog()
    log.log_metadata.model_spec.name = "leaf"
    log.log_metadata.model_spec.version.value = version
    log.log_metadata.timestamp_secs = at
    if kind == "classify_log":
        log.classify_log.request.model_spec.name = "leaf"
        return log
    log.predict_log.request.inputs["image"].CopyFrom(tf.make_tensor_proto(images))
    rows = np.tile([[0.25, 0.75]], (len(images), 1)).astype(np.float32)
    log.predict_log.response.outputs["probabilities"].CopyFrom(tf.make_tensor_proto(rows))
    return log

prefix, *names = sys.argv[1:]
images = [open(name, "rb").read() for name in names]
with tf.io.TFRecordWriter(prefix + "-20261121-000000-1-00000.tfrecord") as writer:
    for log in (entry(images[:2], 3, 100), entry(images[2:], 3, 200), entry(images[:1], 4, 300),
                entry(images, 3, 400, "classify_log"), entry(np.zeros((1, 4, 4, 3), np.uint8), 3, 500)):
        writer.write(log.SerializeToString())
with tf.io.TFRecordWriter(prefix + "-20261121-000100-1-00001.tfrecord") as writer:
    writer.write(entry(images[3:], 3, 600).SerializeToString())
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Prefix of a log, and the images in it."""
    folder = tmp_path_factory.mktemp("log")
    encoded = [images.png(images.pixels(i % 2, i)) for i in range(4)]
    names = [folder / f"{i}.png" for i in range(4)]
    for name, data in zip(names, encoded, strict=True):
        name.write_bytes(data)
    prefix = str(folder / "requests[1]")
    command = [sys.executable, "-c", WRITE, prefix, *map(str, names)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return prefix, encoded


def test_read_log_gives_answered_images_in_order(log):
    prefix, encoded = log
    files = request_log.log_files(prefix)
    found = list(request_log.read_log(files, version=3))
    assert [one.image for one in found] == [*encoded, encoded[3]]
    assert [one.at_s for one in found] == [100, 100, 200, 200, 600]
    assert all(one.version == 3 and one.probabilities.tolist() == [0.25, 0.75] for one in found)
    assert [one.version for one in request_log.read_log(files)] == [3, 3, 3, 3, 4, 3]
    assert [one.at_s for one in request_log.read_log(files, since_s=250)] == [300, 600]
    assert list(request_log.read_log(files, model="other")) == []


def test_sample_log_describes_the_last_requests(log):
    prefix, encoded = log
    files = request_log.log_files(prefix)

    def embed(batch: list[bytes]) -> np.ndarray:
        return np.array([[len(data)] for data in batch], np.float32)

    found = request_log.sample_log(files, embed, version=3, max_requests=3, batch_size=2)
    assert found.embeddings.ravel().tolist() == [len(encoded[i]) for i in (2, 3, 3)]
    assert found.predicted.tolist() == [1, 1, 1] and found.statistics["width"].tolist() == [24] * 3
    some = request_log.sample_log(files, embed, version=3, max_embedded=2, batch_size=2)
    assert len(some) == 5 and len(some.embeddings) == 2 and not some.all_embedded
    wanted = [len([*encoded, encoded[3]][row]) for row in some.embedded]
    assert some.embeddings.ravel().tolist() == wanted
    chosen = request_log.images_at(files, [0, 4], version=3)
    assert {row: one.image for row, one in chosen.items()} == {0: encoded[0], 4: encoded[3]}


def test_a_log_is_counted_and_cut_to_its_size(log, tmp_path):
    files = request_log.log_files(log[0])
    assert request_log.span_of(files, version=3) == request_log.Span(5, 100, 600)
    assert request_log.span_of(files, version=9) == request_log.Span(0, 0, 0)
    for name in ("log-1", "log-2", "log-3", "other-1"):
        (tmp_path / f"{name}.tfrecord").write_bytes(bytes(100))
    assert request_log.prune(str(tmp_path / "log"), 250) == 1
    assert request_log.prune(str(tmp_path / "log"), 1) == 1
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["log-3", "other-1"]
    assert request_log.prune(str(tmp_path / "log"), 1, max_age_s=3600) == 0
    os.utime(tmp_path / "log-3.tfrecord", (0, 0))
    assert request_log.prune(str(tmp_path / "log"), 1000, max_age_s=3600) == 1
    assert [path.stem for path in tmp_path.iterdir()] == ["other-1"]


def test_read_log_forgives_a_cut_end_and_nothing_else(log, tmp_path):
    data = request_log.log_files(log[0])[0].read_bytes()
    path = tmp_path / "a-1.tfrecord"
    path.write_bytes(data[:-7])
    assert len(list(request_log.read_log([path]))) == 5
    path.write_bytes(data[:5])
    assert list(request_log.read_log([path])) == []
    path.write_bytes(data[:100] + b"\xff" + data[101:])
    with pytest.raises(InputError, match="checksum does not fit"):
        list(request_log.read_log([path]))
    path.write_bytes(b"this is not a record at all")
    with pytest.raises(InputError, match="length is damaged"):
        list(request_log.read_log([path]))


def test_log_files_and_sample_log_say_when_there_is_nothing(log, tmp_path):
    with pytest.raises(InputError, match="There is no request log"):
        request_log.log_files(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no answered images of version 9"):
        request_log.sample_log(request_log.log_files(log[0]), version=9)
