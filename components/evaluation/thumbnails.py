"""Small images for the pages, as data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pergola.components.evaluation.saliency import HeatMap, overlay

if TYPE_CHECKING:
    from PIL import Image


def thumbnail(encoded: bytes, side_px: int = 96) -> str:
    """An image as a small data URL; "" if Pillow cannot read it."""
    image = _small(encoded, side_px)
    return "" if image is None else _data_url(image, quality=72)


def heat(encoded: bytes, map: HeatMap, aspect: str, size: Sequence[int], side_px: int = 96) -> str:
    """An image with a heat map over it, as a data URL; see saliency.overlay."""
    image = _small(encoded, side_px)
    return "" if image is None else _data_url(overlay(image, map, aspect, size), quality=72)


def contact_sheet(encoded: bytes, width_px: int = 1200) -> str:
    """A larger image, such as the preview of the augmentation, as a data URL; "" if it cannot be read."""
    from pergola.serving.wire import images

    try:
        with images.opened(encoded) as opened, images.decoding("it"):
            image = opened.convert("RGB")
        if image.width > width_px:
            image = image.resize((width_px, max(1, round(image.height * width_px / image.width))))
        return _data_url(image.crop((0, 0, image.width, min(image.height, 2 * width_px))), quality=75)
    except ValueError:
        return ""


def _small(encoded: bytes, side_px: int) -> Image.Image | None:
    from PIL.Image import Resampling

    from pergola.serving.wire import images

    try:
        with images.opened(encoded) as opened, images.decoding("it"):
            opened.draft("RGB", (2 * side_px, 2 * side_px))
            image = opened.convert("RGB")
    except ValueError:
        return None
    scale = side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Resampling.NEAREST if scale > 1 else Resampling.LANCZOS)


def _data_url(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
