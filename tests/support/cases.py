"""Image files that decoders read differently: those of tests/cases, and more of their kinds, made here."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CASES = Path(__file__).parents[1] / "cases"


def picture(height: int = 24, width: int = 40, seed: int = 0) -> Image.Image:
    """Smooth, and different in every corner, so that JPEG keeps it and no turn looks like another."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red, green, blue = 255 * x / width, 255 * y / height, 127 * (x / width) ** 2 + seed
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_bytes(orientation: int, order: str = "<", kind: int = 3, magic: int = 42) -> bytes:
    """An EXIF block with two tags before the orientation, in either byte order."""
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    entries = [
        struct.pack(order + "HHI", 0x0100, 4, 1) + struct.pack(order + "I", 9),
        struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0",
        struct.pack(order + "HHI", 0x0112, kind, 1) + value,
    ]
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HI", magic, 8) + struct.pack(order + "H", len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + struct.pack(order + "I", 0)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    """A PNG with one more chunk before its pixels."""
    return png[:33] + png_chunk(kind, body) + png[33:]


def flipped(webp: bytes, flag: int) -> bytes:
    """A WebP with another flag in its VP8X header."""
    assert webp[12:16] == b"VP8X"
    return webp[:20] + bytes([webp[20] ^ flag]) + webp[21:]


def xmp(orientation: int) -> bytes:
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


def bmp(image: Image.Image, header_bytes: int) -> bytes:
    """A BMP with a header of that version: 24 bits, or for an image with an alpha channel 32 with masks."""
    has_alpha = image.mode == "RGBA"
    order = (2, 1, 0, 3) if has_alpha else (2, 1, 0)
    pixels = np.asarray(image)[::-1, :, order].tobytes()
    size = (*image.size, 1, 32 if has_alpha else 24, 3 if has_alpha else 0, len(pixels), 2835, 2835, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) if has_alpha else b""
    header = struct.pack("<IiiHHIIiiII", header_bytes, *size) + masks
    if header_bytes > 40:
        header = (header.ljust(56, b"\0") + b"BGRs").ljust(header_bytes, b"\0")
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def short_palette(palette: Image.Image) -> bytes:
    """A BMP that names eight colours and has pixels of the ninth, which are black."""
    whole = encoded(palette, "BMP")
    start = struct.unpack_from("<I", whole, 10)[0]
    named = whole[: 54 + 4 * 8] + b"\x08" + whole[start + 1 :]
    named = named[:10] + struct.pack("<I", 54 + 4 * 8) + named[14:]
    return named[:46] + struct.pack("<II", 8, 8) + named[54:]


def odd_files() -> dict[str, bytes]:
    """Files that the graph and Pillow could read differently."""
    image, grey = picture(), picture().convert("L")
    palette = image.quantize(8)
    profile = b"\nexif\n      26\n" + exif_bytes(6)[6:].hex().encode() + b"\n"
    png, lossless = encoded(image, "PNG"), {"lossless": True}
    tagged = encoded(image, "WEBP", exif=exif_bytes(6), **lossless)
    part = encoded(palette, "GIF")
    start = part.index(b",\0\0\0\0")
    rgba = picture().convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    moving = {"save_all": True, "append_images": [image.rotate(90)]}
    files = {
        "jpeg-exif-over-xmp": encoded(image, "JPEG", exif=exif_bytes(1), xmp=xmp(6)),
        "jpeg-xmp-in-a-comment": encoded(image, "JPEG", comment=xmp(6)),
        "jpeg-xmp-upright": encoded(image, "JPEG", xmp=xmp(1)),
        "png-exif-at-end": png[:-12] + png_chunk(b"eXIf", exif_bytes(5)[6:]) + png[-12:],
        "png-exif-upright": encoded(image, "PNG", exif=exif_bytes(1)),
        "png-exif-prefix": with_chunk(png, b"eXIf", exif_bytes(8)),
        "png-exif-broken": with_chunk(png, b"eXIf", b"MM\0*\0\0"),
        "png-raw-profile": with_chunk(png, b"tEXt", b"Raw profile type exif\0" + profile),
        "png-zipped-profile": with_chunk(png, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        "png-text-exif": with_chunk(png, b"tEXt", b"exif\0" + exif_bytes(6)),
        "png-xmp": with_chunk(png, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(8)),
        "png-zipped-xmp": with_chunk(png, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(8))),
        "png-16-bit": encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "png-16-bit-clear": encoded(
            Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG", transparency=257 * 9
        ),
        "png-1-bit-clear": encoded(grey.convert("1"), "PNG", transparency=1),
        "png-palette-faint": encoded(palette, "PNG", transparency=bytes([9] * 8)),
        "png-palette-clear": encoded(palette, "PNG", transparency=3),
        "webp-xmp": encoded(image, "WEBP", xmp=xmp(6), **lossless),
        "webp-exif-prefix": encoded(image, "WEBP", exif=exif_bytes(7), **lossless),
        "webp-exif-unmarked": flipped(tagged, 0x08),
        "webp-exif-clear": encoded(rgba, "WEBP", exif=exif_bytes(3), exact=True, **lossless),
        "gif-part": part[: start + 1] + struct.pack("<4H", 1, 1, 39, 23) + part[start + 9 :],
        "gif-comment": encoded(palette, "GIF", comment=b"c" * 700),
        "gif-clear": encoded(palette, "GIF", transparency=2),
        "bmp-v4": bmp(image, 108),
        "bmp-v5": bmp(image, 124),
        "bmp-v5-alpha": bmp(rgba, 124),
        "bmp-masks": bmp(rgba, 40),
        "bmp-palette-of-8": short_palette(palette),
        "bmp-palette-of-256": encoded(image.quantize(256), "BMP"),
        "bmp-1-bit": encoded(grey.convert("1"), "BMP"),
        "gif-moving": encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
        "apng": encoded(image, "PNG", **moving),
    }
    for orientation in range(1, 9):
        files[f"png-exif-{orientation}"] = encoded(image, "PNG", exif=exif_bytes(orientation))
        files[f"webp-exif-{orientation}"] = encoded(
            image, "WEBP", exif=exif_bytes(orientation, ">"), **lossless
        )
    return files | {path.name: path.read_bytes() for path in sorted(CASES.glob("*/*"))}
