"""Saliency maps of errors: the regions that a prediction depends on."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.artifacts.record import Record

Maps = npt.NDArray[np.float32]
Explain = Callable[[list[bytes]], Maps]  # encoded images -> float32 (N, h, w), 0 to 1

_COLOURS = np.array([(0, 0, 3), (87, 15, 109), (187, 55, 84), (249, 142, 8), (252, 254, 164)], np.float64)
_OPACITY = 0.65  # of the strongest region


@dataclass(frozen=True)
class HeatMap:
    """The saliency map of one image, in the coordinates of the network's input."""

    height: int
    width: int
    values: str  # base64 of uint8 (height, width), row by row; 255 is the strongest region

    @classmethod
    def of(cls, values: Maps) -> HeatMap:
        """From float32 (h, w), 0 to 1."""
        pixels = np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
        height, width = pixels.shape
        return cls(height, width, base64.b64encode(pixels.tobytes()).decode("ascii"))

    def array(self) -> npt.NDArray[np.uint8]:
        """uint8 (h, w)."""
        flat = np.frombuffer(base64.b64decode(self.values), np.uint8)
        return flat.reshape(self.height, self.width)


@dataclass(frozen=True)
class Saliency(Record):
    """Saliency maps of the errors with the highest confidence."""

    FILE: ClassVar[str] = "saliency.json"

    maps: Mapping[str, HeatMap]  # id of the image -> its map


def saliency(explain: Explain, images: Mapping[str, bytes], batch_size: int) -> Saliency:
    """The maps of some images.  images: id -> encoded image."""
    ids = sorted(images)
    found: list[Maps] = []
    for at in range(0, len(ids), batch_size):
        found.extend(explain([images[id] for id in ids[at : at + batch_size]]))
    return Saliency({id: HeatMap.of(one) for id, one in zip(ids, found, strict=True)})


def overlay(image: Image.Image, heat: HeatMap, aspect: str, size: Sequence[int]) -> Image.Image:
    """The image with the map over it, bright where the prediction depends on it.

    aspect: how images of another aspect ratio are resized, see components/imaging/decode.py.
    size: height and width of the network's input, which determine the position of the map on the image.
    """
    left, top, right, bottom = _box(image.size, aspect, size)
    wide, high = max(1, round(right - left)), max(1, round(bottom - top))
    map = Image.fromarray(heat.array()).resize((wide, high), Image.Resampling.BICUBIC)
    strength = np.zeros((image.height, image.width), np.uint8)
    layer = Image.fromarray(strength)
    layer.paste(map, (round(left), round(top)))
    share = np.asarray(layer, np.float64) / 255
    stops = np.linspace(0, 1, len(_COLOURS))
    colour = np.stack([np.interp(share, stops, _COLOURS[:, channel]) for channel in range(3)], -1)
    grey = np.asarray(image.convert("L").convert("RGB"), np.float64)
    opacity = _OPACITY * share[..., None]
    return Image.fromarray(np.round(grey * (1 - opacity) + colour * opacity).astype(np.uint8))


def _box(given: tuple[int, int], aspect: str, size: Sequence[int]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the network's input on an image of `given` width and height."""
    width, height = given
    if aspect == "stretch":
        return 0, 0, width, height
    wanted = size[1] / size[0]
    choose = min if aspect == "crop" else max  # a crop of the image, or the image with padding
    wide = choose(width, height * wanted)
    high = wide / wanted
    return (width - wide) / 2, (height - high) / 2, (width + wide) / 2, (height + high) / 2
