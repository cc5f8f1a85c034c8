import io

import numpy as np
import pytest
from PIL import Image

from pergola.components.evaluation.robustness import CHANGES, MAX_SIDE_PX


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def decoded(image):
    with Image.open(io.BytesIO(image)) as opened:
        opened.load()
        return opened


@pytest.fixture(scope="module")
def photograph():
    """A smooth image with an edge: a change of its parts can be told."""
    y, x = np.mgrid[0:120, 0:160]
    pixels = np.stack([x, y, 255 - x], axis=-1).clip(0, 255).astype(np.uint8)
    pixels[40:80, 60:100] = 230
    return pixels


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_change_keeps_the_size_and_what_is_seen(photograph, name, kind):
    after = decoded(CHANGES[name](encoded(photograph, kind)))
    assert after.size == (160, 120) and after.mode == "RGB"
    a, b = photograph.astype(float).ravel(), np.asarray(after, float).ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.9
    assert np.abs(a - b).mean() > 0.05


def test_darker_and_brighter_change_the_mean(photograph):
    mean = {name: np.asarray(decoded(CHANGES[name](encoded(photograph)))).mean() for name in CHANGES}
    assert mean["darker"] < 0.75 * photograph.mean()
    assert mean["brighter"] > 1.1 * photograph.mean()


def test_rotation_leaves_no_empty_corner():
    after = np.asarray(decoded(CHANGES["rotation"](encoded(np.full((60, 90, 3), 200, np.uint8)))))
    assert after.min() >= 199


@pytest.mark.parametrize("name", CHANGES)
def test_change_keeps_grey_images_grey(name):
    grey = (np.mgrid[0:8, 0:8][1] * 30).astype(np.uint8)
    assert decoded(CHANGES[name](encoded(grey))).mode == "L"


def test_change_reduces_large_images():
    after = decoded(CHANGES["blur"](encoded(np.zeros((900, 1800, 3), np.uint8))))
    assert max(after.size) == MAX_SIDE_PX


@pytest.mark.parametrize("name", CHANGES)
def test_change_lets_alone_what_cannot_be_read(name):
    assert CHANGES[name](b"no image") == b"no image"


@pytest.mark.parametrize("name", CHANGES)
def test_change_twice_gives_equal_bytes(photograph, name):
    image = encoded(photograph)
    assert CHANGES[name](image) == CHANGES[name](image)
