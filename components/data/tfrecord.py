"""TFRecord files of tf.train.Example, written without TensorFlow.

The framing follows tensorflow/core/lib/io/record_writer: length, its masked CRC-32C, data, their masked
CRC-32C. The message is tensorflow/core/example/example.proto in protobuf's wire format. Keys are sorted, so
equal values give equal bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_MASK_DELTA = 0xA282EAD8
_BYTES_LIST, _INT64_LIST = 1, 3  # field numbers in Feature
_LENGTH_DELIMITED = 2


def record(data: bytes) -> bytes:
    """A record with its framing."""
    length = struct.pack("<Q", len(data))
    return b"".join(
        (length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data)))
    )


def example(features: Mapping[str, bytes | int]) -> bytes:
    """A serialised tf.train.Example with one value per feature: bytes or a non-negative int64."""
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, _feature(value)))
        for name, value in sorted(features.items())
    )
    return _field(1, b"".join(entries))


def _feature(value: bytes | int) -> bytes:
    if isinstance(value, bytes):
        return _field(_BYTES_LIST, _field(1, value))
    return _field(_INT64_LIST, _field(1, _varint(value)))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def masked_crc(data: bytes) -> int:
    """The checksum of TFRecord files."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF
