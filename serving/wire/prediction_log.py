"""The records of a request log, without TensorFlow: PredictionLog messages in TFRecord framing.

The message has only the fields that are read or written here, by the numbers of
tensorflow_serving/apis/prediction_log.proto; parsers pass over all others. The framing is that of
tensorflow/core/lib/io/record_writer: length, its masked CRC-32C, the data, their masked CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

MAX_RECORD_BYTES = 1 << 30


@cache
def message() -> Any:
    """Our PredictionLog message class."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    from pergola.serving.wire.protos import predict_pb2

    package, served = "pergola.serving.log", f".{predict_pb2.DESCRIPTOR.package}"
    file = descriptor_pb2.FileDescriptorProto(
        name="serving/prediction_log.proto", package=package, syntax="proto3"
    )
    file.dependency.append(predict_pb2.DESCRIPTOR.name)
    messages: dict[str, dict[str, tuple[int, str | None]]] = {
        "LogMetadata": {"model_spec": (1, f"{served}.ModelSpec"), "timestamp_secs": (4, None)},
        "PredictLog": {
            "request": (1, f"{served}.PredictRequest"),
            "response": (2, f"{served}.PredictResponse"),
        },
        "PredictionLog": {
            "log_metadata": (1, f".{package}.LogMetadata"),
            "predict_log": (6, f".{package}.PredictLog"),
        },
    }
    for name, fields in messages.items():
        added = file.message_type.add(name=name)
        for field_name, (number, type_name) in fields.items():
            field = added.field.add(name=field_name, number=number, label="LABEL_OPTIONAL")
            field.type = field.TYPE_MESSAGE if type_name else field.TYPE_INT64
            if type_name:
                field.type_name = type_name
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.PredictionLog"))


def frame(data: bytes) -> bytes:
    """One record, framed."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", _masked_crc(length)), data, struct.pack("<I", _masked_crc(data)))
    )


def records(file: BinaryIO) -> Iterator[bytes]:
    """The records of a file; a truncated last one is skipped. Raises ValueError for damage."""
    for _, record, is_whole in placed_records(file):
        if not is_whole:
            raise ValueError("a record's checksum does not fit")
        yield record


def placed_records(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """The offset of each record's data, the data, and whether its checksum fits; otherwise as `records`."""
    at = 0
    while len(head := file.read(12)) == 12:
        length, crc = struct.unpack("<QI", head)
        if crc != _masked_crc(head[:8]) or length > MAX_RECORD_BYTES:
            raise ValueError("a record's length is damaged")
        record, tail = file.read(length), file.read(4)
        if len(record) < length or len(tail) < 4:
            return
        yield at + 12, record, tail == struct.pack("<I", _masked_crc(record))
        at += 12 + length + 4


def _masked_crc(data: bytes) -> int:
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
