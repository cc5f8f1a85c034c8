"""Removes images from a request log, also while a server writes to it.

A record that holds one of them is overwritten, in its place and at its length, by a PredictionLog with
nothing but padding: readers pass over it. Files are neither renamed nor shortened, so a server goes on
writing. A request of several images is removed as a whole.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path

from pergola.components.errors import InputError
from pergola.serving.wire import prediction_log

_PADDING = 15 << 3 | 2  # a field that PredictionLog does not have, with bytes
_MIN_IMAGE_BYTES = 16
_MAX_DEPTH = 12  # of messages in messages
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def count_records(path: Path, ids: Collection[str]) -> int:
    """The number of records of a TFRecord file of PredictionLog that hold an image with one of these ids."""
    return sum(1 for _ in _found(path, ids))


def redact(path: Path, ids: Collection[str]) -> int:
    """Overwrite the records that hold an image with one of these ids; returns their number.

    ids: SHA-256 of the bytes that the server received, 64 hex digits.
    Can be repeated: a record whose checksum does not fit, which no reader accepts, is overwritten too.
    """
    count = 0
    for at, length in _found(path, ids):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(prediction_log.frame(_padding(length))[12:])
            file.flush()
            os.fsync(file.fileno())
        count += 1
    return count


def holds(record: bytes, ids: Collection[str]) -> bool:
    """Whether a serialised message of any kind has, at any depth, a field with one of these SHA-256 sums."""
    left = [(memoryview(record), 0)]
    while left:
        message, depth = left.pop()
        for field in _fields(message):
            if hashlib.sha256(field).hexdigest() in ids:
                return True
            if depth < _MAX_DEPTH:
                left.append((field, depth + 1))
    return False


def _found(path: Path, ids: Collection[str]) -> Iterator[tuple[int, int]]:
    """Offset and length of the data of the records to be overwritten."""
    try:
        with open(path, "rb") as file:
            for at, record, is_whole in prediction_log.placed_records(file):
                if not is_whole or holds(record, ids):
                    yield at, len(record)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a request log: {error}. Nothing was removed. It "
            "may hold the image: restore the file, or delete it, and repeat."
        ) from None


def _padding(length: int) -> bytes:
    """A PredictionLog of this many bytes that says nothing."""
    if length < 6:
        raise ValueError("a record is damaged, and too short to be overwritten")
    rest = length - 6
    size = bytes(rest >> shift & 0x7F | (0x80 if shift < 28 else 0) for shift in (0, 7, 14, 21, 28))
    return bytes([_PADDING]) + size + bytes(rest)


def _fields(message: memoryview) -> list[memoryview]:
    """The fields of bytes in a message, short ones left out; empty if it is no message."""
    at, found = 0, []
    try:
        while at < len(message):
            key, at = _varint(message, at)
            wire = key & 7
            if wire == _VARINT:
                _, at = _varint(message, at)
            elif wire == _BYTES:
                length, at = _varint(message, at)
                if length >= _MIN_IMAGE_BYTES:
                    found.append(message[at : at + length])
                at += length
            elif wire in (_FIXED32, _FIXED64):
                at += struct.calcsize("<I" if wire == _FIXED32 else "<Q")
            else:
                return []
    except IndexError:
        return []
    return found if at == len(message) else []


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise IndexError("a number does not end")
