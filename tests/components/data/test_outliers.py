"""Outliers: scikit-learn's neighbours, Tukey's fences, planted images, silence about a clean set."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import iqr, norm
from sklearn.neighbors import NearestNeighbors

from pergola.components.data.checks import outliers as o
from pergola.components.data.checks.grey_images import grey_among_colour
from pergola.components.data.checks.image_features import colour_of
from pergola.components.data.checks.outliers import OutlierSettings
from pergola.components.imaging.embeddings import principal
from tests.support import images
from tests.support.planted import leaves

LEAVES = Path("../shared/data/leaves")
FOOD = Path("../shared/data/grocery-ingredients")
WEIGHTS = Path("../shared/data/weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5")


def search(points, groups=None, **settings):
    ids = [f"{i:04}" for i in range(len(points))]
    return o.find_outliers(points, ids, ids, ["x"] * len(ids), groups, OutlierSettings(**settings))


def test_neighbour_distances_are_scikit_learns():
    points = np.random.default_rng(0).normal(size=(700, 6))
    found = o.neighbour_distances(points, np.arange(700), OutlierSettings(neighbours=7))
    scaled = principal(points, 6)
    theirs, _ = NearestNeighbors(n_neighbors=8).fit(scaled).kneighbors(scaled)
    assert np.allclose(found, theirs[:, 1:].mean(axis=1), atol=1e-3)


def test_neighbour_distances_pass_over_a_images_own_group():
    points = np.array([[0.0, 0], [0.01, 0], [5, 0], [9, 0]])
    found = o.neighbour_distances(points, np.array([0, 0, 1, 2]), OutlierSettings(neighbours=1))
    assert found[0] / found[3] == pytest.approx(5 / 4, rel=1e-3)
    assert o.neighbour_distances(points, np.zeros(4, int), OutlierSettings()).tolist() == [0, 0, 0, 0]


def test_find_outliers_finds_planted_ones_alone_and_in_groups():
    points = np.random.default_rng(0).normal(size=(500, 16))
    points[[3, 77]] += 9
    points[100:104] -= 9  # four near-duplicates of one odd image are each other's neighbours
    same = {f"{i:04}": "odd" for i in range(100, 104)}
    found = search(points, same, neighbours=5)
    assert {one.id for one in found.outliers} == {"0003", "0077", "0100", "0101", "0102", "0103"}
    assert all(one.distance > found.fence for one in found.outliers)
    finding = o.finding(found)
    assert finding.count == 6 and "6 of 500 images look like no other" in finding.message


def test_find_outliers_is_silent_on_clean_points():
    """20 clean sets of 500 images: fewer than 1 in 500 may be called odd."""
    rng = np.random.default_rng(1)
    called = [len(search(rng.normal(size=(500, 8))).outliers) for _ in range(20)]
    assert sum(called) <= 20
    assert o.finding(search(np.ones((60, 4)))) is None
    assert search(np.eye(20)).outliers == ()  # too few


def test_find_outliers_compares_with_a_bounded_number():
    points = np.random.default_rng(0).normal(size=(600, 4))
    points[5] += 20
    assert [one.id for one in search(points, max_compared=100).outliers] == ["0005"]


def test_fences_are_tukeys():
    values = np.random.default_rng(0).gamma(3, size=1000)
    low, high = o.fences(values, 3.0)
    quartiles = np.percentile(values, [25, 75])
    assert (low, high) == pytest.approx((quartiles[0] - 3 * iqr(values), quartiles[1] + 3 * iqr(values)))
    outside = norm.sf(o.fences(norm.ppf(np.linspace(1e-6, 1 - 1e-6, 100_001)), OutlierSettings().reach)[1])
    assert outside == pytest.approx(1 / 2700, rel=0.02)


def test_colourfulness_of_known_images():
    grey = np.full((40, 40), 99, np.uint8)
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    assert colour_of(Image.fromarray(grey).convert("RGB")) == 0
    decoded = Image.open(io.BytesIO(images.jpeg(np.dstack([grey] * 3)))).convert("RGB")
    assert colour_of(decoded) < 0.5
    assert colour_of(Image.fromarray(red)) == pytest.approx((170 + 85 + 85) / 3)


def test_grey_among_colour_needs_colour_around_it():
    mostly_colour = np.array([30.0] * 95 + [0.1] * 5)
    assert np.flatnonzero(grey_among_colour(mostly_colour)).tolist() == [95, 96, 97, 98, 99]
    assert not grey_among_colour(np.array([30.0] * 50 + [0.1] * 50)).any()
    assert not grey_among_colour(np.array([])).any()


@pytest.mark.slow
@pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the photographs in ../shared/data")
def test_find_outliers_in_leaves_finds_what_is_no_leaf():
    from pergola.components.imaging.embeddings import keras_embed

    found = leaves(WEIGHTS)
    rng = np.random.default_rng(0)
    blank, noise = np.full((224, 224, 3), 128, np.uint8), rng.integers(0, 256, (224, 224, 3)).astype(np.uint8)
    food = [path.read_bytes() for path in sorted(FOOD.rglob("*.jpg"))[::40]]
    strange = [images.png(blank), images.png(noise), *food]
    points = np.concatenate([found.embeddings, keras_embed(WEIGHTS)(strange)])
    names = [*found.ids, "blank", "noise", *(f"food {i}" for i in range(len(food)))]
    called = {one.id for one in o.find_outliers(points, names, names, names).outliers}
    assert {"blank", "noise"} <= called
    assert len(called & set(names[-len(food) :])) > 0.6 * len(food)
    assert len(called & set(found.ids)) < 0.002 * len(found.ids)
