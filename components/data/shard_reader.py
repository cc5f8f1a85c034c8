"""Reads the images of a split from its TFRecord shards, without TensorFlow.

A TFRecord file is a sequence of records: length uint64, its CRC uint32, the record, its CRC uint32, all
little-endian, the CRCs masked (tensorflow/core/lib/io/record_writer.h). A record here is a tf.train.Example
with the features "image", "label" and "id" (see components/artifacts/data.py), in protobuf's wire format:
Example.features = 1, Features.feature = 1 (a map: key 1, value 2), Feature.bytes_list = 1 or int64_list = 3,
and in both lists value = 1.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pergola.components.artifacts.data import Shards
from pergola.components.data.tfrecord import masked_crc
from pergola.components.errors import InputError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class ShardImage:
    """An encoded image with its label and id."""

    id: str  # SHA-256 of the file it came from
    label: int  # index in Shards.labels
    image: bytes


def read_images(shards_folder: Path, split: str, ids: Container[str] | None = None) -> Iterator[ShardImage]:
    """The images of a split in the order of its shards. ids: only these images; None: all.

    One image is in memory at a time. Raises InputError for a split that does not exist, and for a file that
    is missing, truncated or not a TFRecord file.
    """
    shards = Shards.load(shards_folder)
    if split not in shards.splits:
        raise InputError(f"{shards_folder} has no split '{split}', only {', '.join(sorted(shards.splits))}.")
    for name in shards.splits[split].files:
        path = shards_folder / name
        try:
            with open(path, "rb") as file:
                for record in _records(file, path.stat().st_size):
                    image = _image(record)
                    if ids is None or image.id in ids:
                        yield image
        except (OSError, ValueError, KeyError, struct.error) as error:
            raise InputError(
                f"{path} cannot be read as a shard ({error}). Write the shards again."
            ) from error


def _records(file: BinaryIO, size: int) -> Iterator[bytes]:
    while head := file.read(12):
        (length, crc) = struct.unpack("<QI", head)
        if crc != masked_crc(head[:8]) or length > size - file.tell() - 4:
            raise ValueError("a record's length is damaged")
        record = file.read(length)
        if file.read(4) != struct.pack("<I", masked_crc(record)):
            raise ValueError("a record's checksum is wrong")
        yield record


def _image(record: bytes) -> ShardImage:
    features: dict[str, bytes | int] = {}
    for _, example in _fields(record, 1):
        for _, entry in _fields(_as_bytes(example), 1):
            pair = dict(_fields(_as_bytes(entry)))
            features[_as_bytes(pair[1]).decode()] = _value(_as_bytes(pair[2]))
    image, label, id = features["image"], features["label"], features["id"]
    if not isinstance(label, int):
        raise ValueError("feature 'label' is not an integer")
    return ShardImage(_as_bytes(id).decode("ascii"), label, _as_bytes(image))


def _value(feature: bytes) -> bytes | int:
    """The first value of a Feature."""
    for kind, content in _fields(feature):
        for _, value in _fields(_as_bytes(content), 1):
            if kind == 3 and isinstance(value, bytes):  # packed, as proto3 writes numbers
                return _varint(value, 0)[0]
            return value
    raise ValueError("a feature has no value")


def _fields(message: bytes, only: int | None = None) -> Iterator[tuple[int, bytes | int]]:
    """Field numbers and values of a message; fixed-width fields are skipped."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        value: bytes | int
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _BYTES:
            length, at = _varint(message, at)
            if length > end - at:
                raise ValueError("a field is truncated")
            value, at = message[at : at + length], at + length
        elif wire in (_FIXED32, _FIXED64):
            at += 4 if wire == _FIXED32 else 8
            continue
        else:
            raise ValueError(f"wire type {wire} is unknown")
        if only is None or number == only:
            yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number is truncated")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _as_bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise ValueError("expected bytes, got a number")
    return value
