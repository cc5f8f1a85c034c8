"""Damaged image files, drawn with a seed: small ones of every format with bytes changed, lost and added."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from tests.support import images
from tests.support.cases import encoded, exif_bytes

_HEAD = 64  # bytes from the start, which half of the mutations change


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Names of the originals, and what became of them."""
    rng, originals = random.Random(seed), sorted(_originals().items())
    for number in range(count):
        name, data = originals[number % len(originals)]
        changed = _changed(rng, data)
        yield name, _with_checksums(changed) if name.startswith("png") and rng.random() < 0.7 else changed


def _originals() -> dict[str, bytes]:
    image, large = (Image.fromarray(images.pixels(1, 2, size=size)) for size in (24, 96))
    palette, rgba = image.quantize(16), image.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(image.size))
    moving = {"save_all": True, "append_images": [image.rotate(90)]}
    return {
        "jpeg": encoded(large, "JPEG"),
        "jpeg-progressive": encoded(large, "JPEG", progressive=True),
        "jpeg-restarts": encoded(large, "JPEG", restart_marker_blocks=3),
        "jpeg-grey": encoded(image.convert("L"), "JPEG"),
        "jpeg-turned": encoded(image, "JPEG", exif=exif_bytes(6)),
        "png": encoded(image, "PNG"),
        "png-palette": encoded(palette, "PNG"),
        "png-clear": encoded(palette, "PNG", transparency=3),
        "png-alpha": encoded(rgba, "PNG"),
        "png-turned": encoded(image, "PNG", exif=exif_bytes(6)),
        "png-moving": encoded(image, "PNG", **moving),
        "webp": encoded(large, "WEBP"),
        "webp-lossless": encoded(image, "WEBP", lossless=True),
        "webp-alpha": encoded(rgba, "WEBP"),
        "webp-turned": encoded(image, "WEBP", exif=exif_bytes(6)),
        "webp-moving": encoded(image, "WEBP", **moving),
        "gif": encoded(palette, "GIF"),
        "gif-moving": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        "bmp": encoded(image, "BMP"),
        "bmp-palette": encoded(palette, "BMP"),
        "bmp-alpha": encoded(rgba, "BMP"),
    }


def _changed(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(max(1, min(len(changed), _HEAD if rng.random() < 0.5 else len(changed))))
        size = rng.choice((1, 2, 8, 64))
        kind = rng.choice(("replace", "flip", "cut", "remove", "insert", "number"))
        if kind == "replace":
            changed[at : at + size] = rng.randbytes(min(size, len(changed) - at))
        elif kind == "flip" and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del changed[rng.randrange(1, max(2, len(changed))) :]
        elif kind == "remove":
            del changed[at : at + size]
        elif kind == "insert":
            changed[at:at] = rng.randbytes(size)
        elif kind == "number":
            number = rng.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)
    return bytes(changed)


def _with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is now in them, so that it is read further."""
    place, fixed = 8, bytearray(png)
    while place + 12 <= len(png):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        if end + 4 > len(png):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(png[place + 4 : end]))
        place = end + 4
    return bytes(fixed)
