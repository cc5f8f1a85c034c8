"""What one look at an image file tells: the columns of a manifest's row that depend on its bytes alone.

JPEG files are decoded in grey and at the smallest of libjpeg's scales that is large enough, which costs about
half of a full decode and still notices a file that is cut off.
"""

from __future__ import annotations

import builtins
import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image

from pergola.components import digest
from pergola.components.data.sources.source import Entry, Source
from pergola.serving.wire import images

THUMBNAIL_SIDE = 32  # pixels; a thumbnail is square whatever the image's shape
_LUMA_SIDE = 128  # brightness, contrast and sharpness are of the image halved down to this
_HASH_SIDE = 8


class Look(NamedTuple):
    """Columns of pergola.components.artifacts.data.Manifest, in its order."""

    id: str
    format: str | None
    mode: str | None
    width: int
    height: int
    bytes: int
    orientation: int
    brightness: float
    contrast: float
    sharpness: float
    phash: int
    thumbnail: builtins.bytes | None
    reason: str | None


@dataclass(frozen=True)
class Limits:
    """What is refused before it is decoded."""

    max_pixels: int
    max_side: int
    max_bytes: int


def version() -> str:
    """Changes whenever the same file might give another look."""
    sources = [Path(__file__), Path(str(images.__file__))]
    return digest.of_data([PIL.__version__, *map(digest.of_file, sources)])


def look_at(source: Source, entries: Sequence[Entry], limits: Limits) -> list[Look]:
    """One look an entry. What cannot be read becomes a look with a reason, never an error."""
    with pillow_as_is():
        return [_look_at_one(source, entry, limits) for entry in entries]


def look(data: bytes, limits: Limits) -> Look:
    """What an image file's bytes tell."""
    id = hashlib.sha256(data).hexdigest()
    try:
        return _decoded(data, id, limits)
    except ValueError as error:
        return _unreadable(id, len(data), str(error).rstrip("."))


def perceptual_hash(thumbnail: np.ndarray) -> int:
    """The signs of the 63 lowest frequencies of a luma thumbnail, as a number of 64 bits.

    thumbnail: uint8 (32, 32).  Bit 8 u + v is that of the cosine with u half waves down and v across; bit 0,
    the mean, is always 0. So brightness and contrast change nothing, and a mirror image differs in the bits
    of odd v alone. After the DCT hash of Zauner (2010), which takes the median where zero is taken here.
    """
    waves = _COSINES @ (thumbnail.astype(np.float32) - 128) @ _COSINES.T
    bits = (waves.ravel() > 0).astype(np.uint64)
    bits[0] = 0
    return int((bits << _BIT).sum())


@contextmanager
def pillow_as_is() -> Iterator[None]:
    """Pillow without its warnings and without its own limit of pixels, since there is one here."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _look_at_one(source: Source, entry: Entry, limits: Limits) -> Look:
    if entry.reason is not None:
        return _unreadable("", entry.num_bytes, entry.reason)
    if entry.num_bytes > limits.max_bytes:
        return _unreadable("", entry.num_bytes, f"it has {entry.num_bytes} bytes, more than scan.max_bytes")
    try:
        data = source.read(entry.path)
    except OSError as error:
        return _unreadable("", entry.num_bytes, f"it cannot be opened: {error.strerror or error}")
    return look(data, limits)


def _decoded(data: bytes, id: str, limits: Limits) -> Look:
    with images.opened(data, "it", max_pixels=limits.max_pixels) as image:
        if max(image.size) > limits.max_side:
            raise ValueError(f"it is {image.width} x {image.height} pixels, and scan.max_side is smaller")
        turn = images.orientation(image, data)
        size = image.size if turn < 5 else image.size[::-1]
        format, mode = image.format, image.mode
        with images.decoding("it"):
            luma = images.upright(_luma(image), turn)
    thumbnail = np.asarray(luma.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX))
    pixels = np.asarray(luma).astype(np.int32)
    return Look(
        id, format, mode, *size, len(data), turn, *_brightness(pixels), _sharpness(pixels),
        perceptual_hash(thumbnail), thumbnail.tobytes(), None,
    )  # fmt: skip


def _luma(image: Image.Image) -> Image.Image:
    """Grey, and halved until its longer side is at most _LUMA_SIDE."""
    shrink = 1
    while max(image.size) > shrink * _LUMA_SIDE:
        shrink *= 2
    if image.mode in ("L", "RGB"):
        width, height = image.size
        image.draft("L", (max(1, width // shrink), max(1, height // shrink)))
        shrink = max(1, round(shrink * image.width / width))
    image.load()
    grey = images.flat(image).convert("L")
    return grey.reduce(shrink) if shrink > 1 else grey


def _brightness(pixels: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of int32 (H, W), from exact sums."""
    count, sum1 = pixels.size, int(pixels.sum(dtype=np.int64))
    sum2 = int((pixels * pixels).sum(dtype=np.int64))
    return sum1 / count, math.sqrt(max(0, sum2 * count - sum1 * sum1)) / count


def _sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian of int32 (H, W); 0 where an image is too small to have one."""
    if min(pixels.shape) < 3:
        return 0.0
    edges = 4 * pixels[1:-1, 1:-1]
    for neighbours in (pixels[:-2, 1:-1], pixels[2:, 1:-1], pixels[1:-1, :-2], pixels[1:-1, 2:]):
        edges -= neighbours
    # Whole numbers: exact, and no BLAS, whose threads would fight over the cores with the other readers.
    count, sum1, sum2 = edges.size, int(edges.sum(dtype=np.int64)), int((edges * edges).sum(dtype=np.int64))
    return (sum2 * count - sum1 * sum1) / count**2


def _unreadable(id: str, num_bytes: int, reason: str) -> Look:
    return Look(id, None, None, 0, 0, num_bytes, 1, 0.0, 0.0, 0.0, 0, None, reason)


def _cosines() -> np.ndarray:
    """The rows of the orthonormal DCT-II of length THUMBNAIL_SIDE up to _HASH_SIDE."""
    places = (np.arange(THUMBNAIL_SIDE) + 0.5) * np.pi / THUMBNAIL_SIDE
    rows = np.cos(np.arange(_HASH_SIDE)[:, None] * places) * math.sqrt(2 / THUMBNAIL_SIDE)
    rows[0] /= math.sqrt(2)
    return rows.astype(np.float32)


_COSINES = _cosines()
_BIT = np.arange(_HASH_SIDE**2, dtype=np.uint64)
