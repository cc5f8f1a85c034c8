"""Crops: parts of real-looking images are found wherever they were cut, other images are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pergola.components.imaging.crop_matching import crop_pairs
from pergola.components.imaging.keypoints import NUM_KEYPOINTS, Keypoints, detect_keypoints
from tests.support.images import jpeg


def scene(seed: int, side: int = 192) -> Image.Image:
    """Blobs of many sizes in colour: an image with something to be seen at every scale."""
    rng = np.random.default_rng(seed)
    layers = [
        ndimage.gaussian_filter(rng.normal(size=(side, side, 3)), (s, s, 0)) * s for s in (3, 6, 12, 24)
    ]
    pixels = sum(layers)
    return Image.fromarray(np.clip(128 + 60 * pixels / pixels.std(), 0, 255).astype(np.uint8))


def thing(seed: int, side: int = 192) -> Image.Image:
    """A soft three-lobed blot of its own place, size and shape on white."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[0:side, 0:side] / side
    sheet = np.full((side, side), 240.0)
    for _ in range(3):
        middle, spread = rng.uniform(0.3, 0.7, 2), rng.uniform(0.08, 0.2, 2)
        away = ((down - middle[0]) / spread[0]) ** 2 + ((across - middle[1]) / spread[1]) ** 2
        sheet -= 60 * np.exp(-away)
    return Image.fromarray(np.repeat(sheet.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2))


def cropped(image: Image.Image, scale: float, left: float, top: float, *, width: int = 0) -> Image.Image:
    """A window of `scale` of the sides, as JPEG; left, top: 0 to 1 of the room; width: resized to it."""
    size = round(scale * image.width)
    x, y = round(left * (image.width - size)), round(top * (image.height - size))
    window = image.crop((x, y, x + size, y + size))
    if width:
        window = window.resize((width, width), Image.Resampling.BICUBIC)
    return Image.open(io.BytesIO(jpeg(np.asarray(window), quality=85))).convert("RGB")


def pairs(*images: Image.Image) -> list[list[int]]:
    return crop_pairs(Keypoints.of([detect_keypoints(image) for image in images])).tolist()


@pytest.mark.parametrize(
    ("scale", "left", "top"), [(0.95, 0, 0), (0.85, 1, 0.5), (0.75, 0.3, 1), (0.7, 0.5, 0.5)]
)
def test_crop_pairs_finds_a_window_wherever_it_was_cut(scale, left, top):
    others = [scene(seed) for seed in range(1, 6)]
    assert pairs(scene(0), *others, cropped(scene(0), scale, left, top)) == [[0, 6]]


def test_crop_pairs_finds_a_window_that_was_resized_and_one_of_another_shape():
    whole = scene(0)
    assert pairs(whole, cropped(whole, 0.8, 0.5, 0.2, width=300), scene(1)) == [[0, 1]]
    assert pairs(scene(1), whole, whole.crop((20, 0, 160, 192))) == [[1, 2]]


@pytest.mark.parametrize("scale", [0.75, 0.85, 0.95])
def test_crop_pairs_finds_a_window_of_one_smooth_thing_on_an_empty_sheet(scale):
    """There are hardly any points here; the images differ in the place and the shape of their thing."""
    things = [thing(seed) for seed in range(12)]
    part = cropped(things[4], scale, 0.4, 0.7)
    assert np.isfinite(detect_keypoints(part)[0][:, 0]).sum() < 10
    assert pairs(*things, part) == [[4, 12]]


def test_crop_pairs_are_silent_about_other_images():
    assert pairs(*(scene(seed) for seed in range(20))) == []
    flat = Image.new("RGB", (200, 200), (90, 90, 90))
    small = scene(0).resize((40, 40))
    assert pairs(flat, flat, small, small) == []  # nothing to see, and too small to look at
    assert pairs() == [] and pairs(scene(0)) == []


def test_crop_pairs_need_more_than_a_common_corner():
    """The same ruler in two images of different things is no crop."""
    ruler = np.asarray(scene(99))[:48]
    images = [np.asarray(scene(seed)).copy() for seed in (1, 2)]
    for pixels in images:
        pixels[-48:] = ruler
    assert pairs(*(Image.fromarray(pixels) for pixels in images)) == []


def test_keypoints_stay_where_they_are_when_light_changes():
    image = scene(3)
    darker = Image.fromarray((np.asarray(image) * 0.6).astype(np.uint8))
    places = [detect_keypoints(one)[0] for one in (image, darker)]
    assert places[0].shape == (NUM_KEYPOINTS, 2) and np.isfinite(places[0]).all()
    apart = np.linalg.norm(places[0][:, None] - places[1][None], axis=2).min(axis=1)
    assert np.mean(apart < 1.5) > 0.8
