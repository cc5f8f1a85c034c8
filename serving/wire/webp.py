"""What the header of a WebP file says, read before any decoder is.

Source: WebP container specification and RFC 6386, 9.1, and the WebP lossless specification, 3.
`components/imaging/headers.py` reads the same in a model's graph.
"""

from __future__ import annotations

MAX_CHUNKS = 64  # a still image has at most seven kinds
ANIMATION = 0x02  # a flag in the header VP8X


def size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas; (0, 0) for a file that is not a WebP."""
    kind = data[12:16]
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    if kind == b"VP8X":
        return 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
    if kind == b"VP8L":
        bits = _little(data, 21, 4)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF


def is_animation(data: bytes) -> bool:
    """Whether it is marked as an animation, be it of a single frame."""
    return data[12:16] == b"VP8X" and bool(data[20] & ANIMATION)


def has_sound_chunks(data: bytes) -> bool:
    """Whether its chunks, one behind the other, end where the header says, and the file not before."""
    end, place = 8 + _little(data, 4, 4), 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > end:
            break
        length = _little(data, place + 4, 4)
        place += 8 + length + length % 2
    return place == end <= len(data)


def _little(data: bytes, start: int, num_bytes: int) -> int:
    return int.from_bytes(data[start : start + num_bytes], "little")
