"""Image metadata: the columns of a manifest's row that depend on the file's bytes alone.

JPEG files are decoded in greyscale at the smallest of libjpeg's scales that is large enough. That costs about
half as much as a full decode and still detects truncated files.
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
from pergola.serving.wire import images, webp

THUMBNAIL_SIDE = 32  # pixels; a thumbnail is square whatever the image's shape
_LUMA_SIDE = 128  # brightness, contrast and sharpness are measured on the image halved down to this


class ImageMetadata(NamedTuple):
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
    thumbnail: builtins.bytes | None
    reason: str | None


@dataclass(frozen=True)
class ImageLimits:
    """Files beyond these limits are refused before they are decoded."""

    max_pixels: int
    max_side: int
    max_bytes: int


def version() -> str:
    """Digest of the code and library that the metadata depend on: it changes when they might."""
    sources = [Path(__file__), Path(str(images.__file__)), Path(str(webp.__file__))]
    return digest.of_data([PIL.__version__, *map(digest.of_file, sources)])


def inspect_all(source: Source, entries: Sequence[Entry], limits: ImageLimits) -> list[ImageMetadata]:
    """The metadata of each entry. A file that cannot be read gets a reason and is never an error."""
    with pillow_without_limits():
        return [_inspect_entry(source, entry, limits) for entry in entries]


def inspect(data: bytes, limits: ImageLimits) -> ImageMetadata:
    """The metadata of an image file's bytes; a file that cannot be read gets a reason."""
    id = hashlib.sha256(data).hexdigest()
    try:
        return _decoded(data, id, limits)
    except ValueError as error:
        return _unreadable(id, len(data), str(error).rstrip("."))


@contextmanager
def pillow_without_limits() -> Iterator[None]:
    """Turn off Pillow's warnings and its own pixel limit: the scan has its own."""
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _inspect_entry(source: Source, entry: Entry, limits: ImageLimits) -> ImageMetadata:
    if entry.reason is not None:
        return _unreadable("", entry.num_bytes, entry.reason)
    if entry.num_bytes > limits.max_bytes:
        return _unreadable("", entry.num_bytes, f"it has {entry.num_bytes} bytes, more than scan.max_bytes")
    try:
        data = source.read(entry.path)
    except OSError as error:
        return _unreadable("", entry.num_bytes, f"it cannot be opened: {error.strerror or error}")
    return inspect(data, limits)


def _decoded(data: bytes, id: str, limits: ImageLimits) -> ImageMetadata:
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
    return ImageMetadata(
        id, format, mode, *size, len(data), turn, *_brightness(pixels), _sharpness(pixels),
        thumbnail.tobytes(), None,
    )  # fmt: skip


def _luma(image: Image.Image) -> Image.Image:
    """The image in greyscale, halved until its longer side is at most _LUMA_SIDE."""
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
    """Mean and standard deviation of int32 (H, W), from exact integer sums."""
    count, sum1 = pixels.size, int(pixels.sum(dtype=np.int64))
    sum2 = int((pixels * pixels).sum(dtype=np.int64))
    return sum1 / count, math.sqrt(max(0, sum2 * count - sum1 * sum1)) / count


def _sharpness(pixels: np.ndarray) -> float:
    """Variance of the Laplacian of int32 (H, W); 0 for an image that is too small to have one."""
    if min(pixels.shape) < 3:
        return 0.0
    edges = 4 * pixels[1:-1, 1:-1]
    for neighbours in (pixels[:-2, 1:-1], pixels[2:, 1:-1], pixels[1:-1, :-2], pixels[1:-1, 2:]):
        edges -= neighbours
    # Integers: exact, and no BLAS, whose threads would compete with the other readers for the cores.
    count, sum1, sum2 = edges.size, int(edges.sum(dtype=np.int64)), int((edges * edges).sum(dtype=np.int64))
    return (sum2 * count - sum1 * sum1) / count**2


def _unreadable(id: str, num_bytes: int, reason: str) -> ImageMetadata:
    return ImageMetadata(id, None, None, 0, 0, num_bytes, 1, 0.0, 0.0, 0.0, None, reason)
