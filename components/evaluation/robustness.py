"""Mild changes of images for robustness tests: blur, compression, brightness, rotation.

They do not alter what an image shows. Sizes are relative to the image.
Source of the idea: Hendrycks and Dietterich 2019, at their lowest severity.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.data.shard_reader import ShardImage

if TYPE_CHECKING:
    from PIL import Image

MAX_SIDE_PX = 640  # larger images are scaled down first, as the model would

JPEG_QUALITY = 50
DARKER = 0.7
BRIGHTER = 1.3
DEGREES = 8
BLUR = 0.006  # radius, as a share of the longer side


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "blur": lambda image: _changed(image, _blur),
    "jpeg": lambda image: _changed(image, lambda picture: picture, as_jpeg=True),
    "darker": lambda image: _changed(image, lambda picture: picture.point(lambda v: v * DARKER)),
    "brighter": lambda image: _changed(image, lambda picture: picture.point(lambda v: v * BRIGHTER)),
    "rotation": lambda image: _changed(image, _rotate),
}  # name -> the change of an encoded image, which gives an encoded image


def changed(found: Iterable[ShardImage], change: Callable[[bytes], bytes]) -> Iterator[ShardImage]:
    """The images after a change."""
    for picture in found:
        yield ShardImage(picture.id, picture.label, change(picture.image))


def _changed(image: bytes, change: Callable[[Image.Image], Image.Image], *, as_jpeg: bool = False) -> bytes:
    """The changed image, encoded; unchanged if Pillow cannot read it."""
    from pergola.serving.wire import images

    try:
        with images.opened(image) as opened, images.decoding("it"):
            opened.draft("RGB", (MAX_SIDE_PX, MAX_SIDE_PX))
            picture = opened.convert("L" if opened.mode in ("L", "1") else "RGB")
    except ValueError:
        return image
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    buffer = io.BytesIO()
    if as_jpeg:
        change(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        change(picture).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def _blur(picture: Image.Image) -> Image.Image:
    from PIL import ImageFilter

    return picture.filter(ImageFilter.GaussianBlur(BLUR * max(picture.size)))


def _rotate(picture: Image.Image) -> Image.Image:
    """Rotated, with the edges replicated so that no corner is empty."""
    from PIL import Image

    pad = max(1, round(0.1 * max(picture.size)))
    pixels = np.asarray(picture)
    padded = np.pad(pixels, [(pad, pad), (pad, pad), *[(0, 0)] * (pixels.ndim - 2)], mode="edge")
    rotated = Image.fromarray(padded).rotate(DEGREES, Image.Resampling.BILINEAR)
    return rotated.crop((pad, pad, pad + picture.width, pad + picture.height))
