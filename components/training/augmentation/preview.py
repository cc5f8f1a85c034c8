"""A contact sheet of the policy: training images on the left, augmented copies beside each."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pergola.components import records
from pergola.components.training.input import augmentation_ops

FILE = "preview.png"
ROWS, VARIANTS = 8, 7
_CELL, _GAP, _NAME = (
    112,
    6,
    14,
)  # pixels: longer side of an image, space between images, height of a class name


def draw(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    policy: Mapping[str, float],
    out: Path,
    *,
    seed: int,
) -> Path:
    """Write preview.png into `out`: one image of each of the first classes, and seven augmented copies.

    images: uint8 (N, H, W, C), of size(…).  labels: int64 (N,), index in names.
    """
    _, first = np.unique(labels, return_index=True)
    chosen = first[:ROWS]
    rows = [_variants(images[index], policy, (seed, int(index))) for index in chosen]
    sheet = _sheet(rows, [names[labels[index]] for index in chosen])
    content = io.BytesIO()
    sheet.save(content, "PNG")
    records.write_atomic(out / FILE, content.getvalue())
    return out / FILE


def size(median_height: int, median_width: int) -> tuple[int, int]:
    """Height and width, in pixels, of images on the sheet: small ones are not resized, others are shrunk."""
    shrink = min(1.0, _CELL / max(1, median_height, median_width))
    return max(1, round(median_height * shrink)), max(1, round(median_width * shrink))


def _variants(image: NDArray[np.uint8], policy: Mapping[str, float], seed: tuple[int, int]) -> Any:
    import tensorflow as tf

    batch = tf.constant(np.repeat(image[None], VARIANTS, 0))
    augmented, _ = augmentation_ops.augment(batch, tf.ones((VARIANTS, 1)), tf.constant(seed), policy)
    return np.concatenate([image[None], np.rint(augmented.numpy()).astype(np.uint8)])


def _sheet(rows: list[NDArray[np.uint8]], names: list[str]) -> Any:
    from PIL import Image, ImageDraw

    height, width = rows[0].shape[1:3]
    scale = max(1, _CELL // max(height, width))
    cell_y, cell_x = height * scale + _GAP + _NAME, width * scale + _GAP
    size = (cell_x * (VARIANTS + 1) + 3 * _GAP, cell_y * len(rows) + _GAP)
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        top = _GAP + row * cell_y
        pen.text((_GAP, top), name, fill="black")
        for column, pixels in enumerate(images):
            left = _GAP + column * cell_x + (2 * _GAP if column else 0)
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
            enlarged = image.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, top + _NAME))
    return sheet
