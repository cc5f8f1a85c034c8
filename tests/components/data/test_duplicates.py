"""Near-duplicates: copies are found however they were made, look-alikes are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from pergola.components.data.manifest.duplicates import (
    components,
    exhaustive_search,
    near_pairs,
    tree_search,
)
from pergola.components.data.manifest.image_metadata import (
    THUMBNAIL_SIDE,
    ImageLimits,
    inspect,
    pillow_without_limits,
)
from tests.support.images import jpeg, pixels, png

LIMITS = ImageLimits(10**9, 10**6, 10**9)


def thumbnail(image: Image.Image) -> np.ndarray:
    with pillow_without_limits():
        seen = inspect(png(image), LIMITS)
    return np.frombuffer(seen.thumbnail, np.uint8).reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)


def pairs_of(thumbnails, side: int = 200, block: int = 7) -> list[tuple[int, int]]:
    """Pairs found among thumbnails of images with that longer side."""
    stack = np.stack(thumbnails)
    found = near_pairs(
        np.full(len(stack), side),
        blocks=lambda: (stack[i : i + block] for i in range(0, len(stack), block)),
        at=lambda wanted: stack[wanted],
    )
    return [tuple(pair) for pair in found.tolist()]


@pytest.fixture(scope="module")
def dataset() -> list[Image.Image]:
    return [Image.fromarray(pixels(n % 5, n, classes=5, size=200)) for n in range(40)]


@pytest.fixture(scope="module")
def thumbnails(dataset) -> list[np.ndarray]:
    return [thumbnail(photo) for photo in dataset]


EDITS = {
    "re-encoded": lambda p: Image.open(io.BytesIO(jpeg(p, 30))),
    "half the size": lambda p: p.resize((100, 100), Image.Resampling.LANCZOS),
    "three quarters": lambda p: p.resize((150, 150), Image.Resampling.BICUBIC),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.7),
    "more contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.2),
    "grey": lambda p: p.convert("L"),
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "mirrored and re-encoded": lambda p: Image.open(
        io.BytesIO(jpeg(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 50))
    ),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_near_pairs_finds_copies(dataset, thumbnails, edit):
    copies = [thumbnail(edit(photo)) for photo in dataset[:10]]
    assert pairs_of([*thumbnails, *copies]) == [(n, len(dataset) + n) for n in range(10)]


def test_exhaustive_search_finds_what_the_tree_finds():
    rng = np.random.default_rng(0)
    heaps = rng.normal(size=(30, 16))[rng.integers(0, 30, 1200)] + rng.normal(0, 0.02, (1200, 16))
    asked = heaps[rng.permutation(1200)[:700]].astype(np.float32)  # more than a table's rows
    by_tree, by_all = (
        set(zip(*(side.tolist() for side in near(heaps, 0.12)(asked)), strict=True))
        for near in (tree_search, exhaustive_search)
    )
    assert by_tree == by_all
    most = np.bincount([row for row, _ in by_all])
    assert most.max() == 24 > most.min()  # of some heaps only the nearest


def test_near_pairs_leaves_look_alikes_alone(thumbnails):
    assert pairs_of(thumbnails) == []


def test_near_pairs_leaves_small_look_alikes_alone():
    digits = pytest.importorskip("sklearn.datasets").load_digits().images
    found = pairs_of([thumbnail(Image.fromarray((d * 15.9).astype(np.uint8))) for d in digits], side=8)
    assert len(found) <= 3


def test_near_pairs_needs_more_likeness_in_small_images(thumbnails):
    noise = np.random.default_rng(0).normal(0, 1, thumbnails[0].shape)
    deviation = thumbnails[0].std()
    nearly = np.clip(thumbnails[0] + 0.1 * deviation * noise, 0, 255).astype(np.uint8)
    assert pairs_of([*thumbnails, nearly], side=200) == [(0, len(thumbnails))]
    assert pairs_of([*thumbnails, nearly], side=28) == []


def test_near_pairs_makes_nothing_of_blank_images(thumbnails):
    blank = [np.full((THUMBNAIL_SIDE, THUMBNAIL_SIDE), level, np.uint8) for level in (0, 128, 255, 255)]
    assert pairs_of([*blank, *thumbnails]) == []
    assert pairs_of(blank) == []
    assert pairs_of(thumbnails[:1]) == []


def test_near_pairs_links_a_long_series(thumbnails):
    rng = np.random.default_rng(0)
    series = [
        np.clip(thumbnails[0] + rng.normal(0, 1, thumbnails[0].shape), 0, 255).astype(np.uint8)
        for _ in range(200)
    ]
    found = components(np.array(pairs_of([*thumbnails[1:], *series])), len(thumbnails) - 1 + 200)
    assert len(set(found[len(thumbnails) - 1 :])) == 1
    assert len(set(found)) == len(thumbnails)


def test_near_pairs_agrees_with_comparing_all():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 256, (60, THUMBNAIL_SIDE, THUMBNAIL_SIDE)).astype(np.float64)
    near = base[:30] + rng.normal(0, 1, base[:30].shape) * rng.uniform(0, 20, (30, 1, 1))
    stack = np.clip(np.concatenate([base, near]), 0, 255).astype(np.uint8)
    unit = stack.reshape(len(stack), -1).astype(np.float64)
    unit -= unit.mean(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = np.linalg.norm(unit[:, None] - unit[None], axis=2)
    wanted = [(i, j) for i, j in zip(*np.nonzero(distances <= 0.12), strict=True) if i < j]
    assert 5 < len(wanted) < 40
    assert pairs_of(list(stack)) == wanted


def test_components_names_each_group_by_its_smallest():
    pairs = np.array([[1, 2], [5, 7], [2, 5], [3, 8]])
    assert components(pairs, 9).tolist() == [0, 1, 1, 3, 4, 1, 6, 1, 3]
    assert components(np.zeros((0, 2), np.int64), 3).tolist() == [0, 1, 2]
