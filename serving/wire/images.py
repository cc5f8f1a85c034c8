"""Any image as a file that a model's graph decodes to the right pixels.

TensorFlow's decoders know no EXIF orientation, drop an alpha channel instead of showing what lies
behind it, refuse CMYK for a grey model and all but the simplest BMP, GIF and WebP files, and (2.21.0)
misread BMP palettes. `prepare` hands such files over rewritten and leaves all others as they are. The
pipeline calls it on what a model is trained with and the client on what it sends, so both see the same.

    prepare(Path("leaf.jpg"))   -> bytes of an upright JPEG or PNG, or of a still, opaque WebP
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pergola.serving.wire import webp

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")

# TensorFlow's decoders take no more. A model has a limit of its own, see components/training/export.py.
MAX_PIXELS = 1 << 27
PIXELS_OF_ANY_MODEL = 1 << 24  # 16.8 megapixels: no model has a lower limit

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # the EXIF tag
# Where a PNG has EXIF or XMP data that the graph cannot read.
ODD_EXIF = (
    b"tEXtexif\0", b"zTXtexif\0", b"iTXtexif\0", b"Raw profile type exif\0", b"XML:com.adobe.xmp\0\1",
)  # fmt: skip
_TURNED_BY_XMP = re.compile(rb'tiff:Orientation(="|>)[2-8]')
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # of those that end a scan
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1}  # of a pixel, by colour type
_PNG_FILTERS = 4  # each row begins with the number of one
_EXIF_HOLDERS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


class TooManyPixels(ValueError):
    """An image is larger than the limit on pixels."""


def prepare(image: bytes | str | Path | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> bytes:
    """An upright file that TensorFlow decodes to the image that a person sees.

    image: an encoded file's bytes or path, or uint8 pixels (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
    Grey and RGB JPEG, opaque PNG of 8 bits or less and still, opaque WebP come back unchanged when they
    are upright. Everything else is rewritten, a JPEG as JPEG (quality 95, full colour resolution), the rest
    as PNG: EXIF orientation applied, transparent parts on white, CMYK as RGB, 16 bits cut to their upper 8,
    the first frame of an animation. All are decompressed once, so that a damaged file is found here and does
    not fail the images that it is sent with.

    Raises TooManyPixels for more than `max_pixels` pixels, ValueError for what is not an image, is damaged
    or truncated, or is an array of another dtype or shape; OSError for a path that cannot be read.
    """
    if isinstance(image, np.ndarray):
        return _png(_from_array(image))
    name, data = _content(image)
    with opened(data, name, max_pixels=max_pixels) as picture:
        turn = orientation(picture, data)
        with decoding(name):
            if turn == 1 and _decodes_alike(picture, data):
                _decode_small(picture)
                return data
            return _rewrite(picture, turn)


def fitting(data: bytes, max_pixels: int) -> bytes:
    """A prepared image, scaled down where it has more than `max_pixels` pixels."""
    if max_pixels >= MAX_PIXELS:
        return data
    with opened(data) as picture:
        scale = (max_pixels / (picture.width * picture.height)) ** 0.5
        if scale >= 1:
            return data
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        with decoding("image"):
            return _png(flat(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


@contextlib.contextmanager
def opened(data: bytes, name: str = "image", *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An opened image; its header has been read, its pixels have not.

    Raises ValueError, with `name` in it, for what is not an image, and TooManyPixels.
    """
    if not data:
        raise ValueError(f"{name} is empty: expected an image file.")
    _check_size(name, webp.size(data), max_pixels)  # Opening a WebP already takes memory for its canvas.
    with decoding(name):
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    with picture:
        _check_size(name, picture.size, max_pixels)
        yield picture


def orientation(picture: Image.Image, data: bytes) -> int:
    """The EXIF orientation of an image, 1 (upright) to 8; 1 when it has none or an invalid one."""
    if not (any(key in picture.info for key in _EXIF_HOLDERS) or _late_exif(picture, data)):
        return 1
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's parsers of damaged EXIF raise anything from SyntaxError to struct.error.
        return 1
    return value if value in _UPRIGHT else 1


def upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The image rotated and flipped by its EXIF orientation (1 to 8)."""
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def flat(picture: Image.Image) -> Image.Image:
    """The image in mode "L" or "RGB", with transparency on a white background.

    Raises ValueError for float pixels, whose range is unknown.
    """
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits a channel")
    if picture.has_transparency_data:
        return _on_white(picture)
    return picture.convert("RGB")


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(
            f"{name} has {size[0]} x {size[1]} pixels, more than the limit of {max_pixels}: "
            "scale it down or raise the limit."
        )


def _content(image: bytes | str | Path) -> tuple[str, bytes]:
    if isinstance(image, bytes | bytearray | memoryview):
        return "image", bytes(image)
    if isinstance(image, str | Path):
        return f"'{image}'", Path(image).read_bytes()
    raise ValueError(
        f"Got a {type(image).__name__}: expected a path, the bytes of an image file or a uint8 array."
    )


def _from_array(pixels: np.ndarray) -> Image.Image:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        raise ValueError(
            f"Got an array of {pixels.dtype} with shape {pixels.shape}: expected uint8, 0 to 255, with shape "
            "(height, width), (height, width, 1), (height, width, 3) or (height, width, 4)."
        )
    return Image.fromarray(
        np.ascontiguousarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels)
    )


def _decodes_alike(picture: Image.Image, data: bytes) -> bool:
    """Whether the graph of a model decodes it as Pillow does, and the file is complete."""
    if _is_turned_by_xmp(picture, data):
        return False
    opaque = not picture.has_transparency_data
    if picture.format in ("JPEG", "MPO"):
        return picture.mode in ("L", "RGB") and _reaches_end(data)
    if picture.format == "PNG":
        known = picture.mode in ("1", "L", "P", "RGB") and not any(name in data for name in ODD_EXIF)
        return opaque and known and _has_sound_chunks(data) and _has_all_rows(data)
    if picture.format == "WEBP":
        return opaque and not webp.is_animation(data) and webp.has_sound_chunks(data)
    return False


def _is_turned_by_xmp(picture: Image.Image, data: bytes) -> bool:
    """Whether the graph refuses it, because only its XMP data seem to turn it; Pillow may see otherwise."""
    if b"tiff:Orientation" not in data or not _TURNED_BY_XMP.search(data):
        return False
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # of damaged EXIF, as in `orientation`
        exif.load(picture.info.get("exif", b""))
    return _ORIENTATION not in exif


def _reaches_end(jpeg: bytes) -> bool:
    """Whether the segments of a JPEG, one behind the other, lead to its end: Pillow does not read so far."""
    place = 2
    while marker := _JPEG_MARKER.search(jpeg, place):
        if marker.group() == b"\xff\xd9":
            return True
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        place = marker.end() + max(2, length)
    return False


def _has_sound_chunks(png: bytes) -> bool:
    """Whether the checksums of all chunks of a PNG are right, up to its end: Pillow skips those of pixels."""
    place, kind, view = 8, b"", memoryview(png)
    while kind != b"IEND" and place + 12 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        end = place + 8 + length
        if end + 4 > len(png) or zlib.crc32(view[place + 4 : end]) != int.from_bytes(
            view[end : end + 4], "big"
        ):
            return False
        place = end + 4
    return kind == b"IEND"


def _decode_small(picture: Image.Image) -> None:
    """Decode for the errors alone, a JPEG at an eighth of its size, which takes half the time."""
    if picture.format in ("JPEG", "MPO"):
        picture.draft("L", (1, 1))
    if picture.format != "PNG":  # whose rows are complete
        picture.load()


def _has_all_rows(png: bytes) -> bool:
    """Whether the pixels of a PNG with sound chunks are complete: Pillow leaves missing rows black.

    False for an interlaced one too, whose rows come in another order.
    """
    width, height, depth, kind, *methods = struct.unpack_from(">IIBBBBB", png, 16)
    row = 1 + (width * depth * _PNG_SAMPLES.get(kind, 0) + 7) // 8
    place, pixels, rows = 8, zlib.decompressobj(), bytearray()
    try:
        while not pixels.eof and len(rows) < row * height and place + 12 <= len(png):
            length, name = struct.unpack_from(">I4s", png, place)
            if name == b"IDAT":
                rows += pixels.decompress(png[place + 8 : place + 8 + length], row * height - len(rows))
            place += 12 + length
    except zlib.error:
        return False
    return methods == [0, 0, 0] and len(rows) == row * height and max(rows[::row]) <= _PNG_FILTERS


def _rewrite(picture: Image.Image, turn: int) -> bytes:
    from_jpeg = picture.format in ("JPEG", "MPO")
    picture.load()
    pixels = upright(flat(picture), turn)
    return _jpeg(pixels) if from_jpeg else _png(pixels)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    _bare(flat(picture)).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    _bare(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _bare(picture: Image.Image) -> Image.Image:
    """Without EXIF, colour profile and comments, which Pillow would write to the new file."""
    picture = picture.copy()
    picture.info = {}
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("L" if picture.mode in ("L", "LA", "La") else "RGB")


def _late_exif(picture: Image.Image, data: bytes) -> bool:
    """A PNG may have its EXIF after the pixels, which Pillow has not read yet."""
    return picture.format == "PNG" and b"eXIf" in data


@contextlib.contextmanager
def decoding(name: str) -> Iterator[Any]:
    """Turns any error of a decoder into a ValueError of one sentence."""
    try:
        yield
    except (MemoryError, KeyboardInterrupt):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"{name} has more pixels than an image may have: scale it down.") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that can be read: expected {', '.join(FORMATS)}.") from None
    except Exception as error:  # Decoders raise OSError, SyntaxError, struct.error, ValueError, IndexError, …
        raise ValueError(f"{name} cannot be decoded: {error}.") from None
