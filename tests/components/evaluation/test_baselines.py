import io

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from pergola.components.data.shard_reader import ShardImage
from pergola.components.evaluation import baselines


def image(number, label, size=(20, 20), level=128, kind="PNG", seed=0):
    rng = np.random.default_rng(seed or number)
    pixels = np.clip(rng.normal(level, 25, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return ShardImage(f"{number:04}", label, buffer.getvalue())


def answer_of(found, name):
    return next(item for item in found if item.name == name)


def test_metadata_gives_classes_away_that_differ_in_size_alone():
    train = baselines.extract_features(image(i, i % 2, (20, 20) if i % 2 else (40, 40)) for i in range(40))
    test = baselines.extract_features(
        image(100 + i, i % 2, (20, 20) if i % 2 else (40, 40)) for i in range(20)
    )
    found = baselines.learned(np.ones(20, bool), train, test)
    assert answer_of(found, "metadata").accuracy == 1.0


def test_metadata_gives_classes_away_that_differ_in_format_alone():
    train = baselines.extract_features(image(i, i % 2, kind=("PNG", "JPEG")[i % 2]) for i in range(40))
    test = baselines.extract_features(image(100 + i, i % 2, kind=("PNG", "JPEG")[i % 2]) for i in range(20))
    found = baselines.learned(np.ones(20, bool), train, test)
    assert answer_of(found, "metadata").accuracy == 1.0


def test_metadata_is_near_chance_when_nothing_gives_the_class_away():
    train = baselines.extract_features(image(i, i % 2) for i in range(200))
    test = baselines.extract_features(image(1000 + i, i % 2) for i in range(200))
    found = baselines.learned(np.ones(200, bool), train, test)
    assert 0.35 < answer_of(found, "metadata").accuracy < 0.65


def test_nearest_neighbour_finds_the_image_itself():
    train = baselines.extract_features(image(i, i % 3, seed=i + 1) for i in range(30))
    test = baselines.extract_features(image(100 + i, i % 3, seed=i + 1) for i in range(30))
    found = baselines.learned(np.zeros(30, bool), train, test)
    near = answer_of(found, "nearest_neighbour")
    assert (near.accuracy, near.difference) == (1.0, -1.0)
    assert near.p_value < 1e-6


@pytest.mark.parametrize("neighbours", [1, 5])
def test_vote_is_sklearns(neighbours):
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(90, 6)).astype(np.float32), rng.normal(size=(70, 6)).astype(np.float32)
    labels = rng.integers(0, 2, 90)  # two classes and an odd number of neighbours: no ties
    wanted = KNeighborsClassifier(neighbours).fit(train, labels).predict(test)
    got = baselines._vote(train, test, labels, neighbours, chunk=16)
    np.testing.assert_array_equal(got, wanted)


def test_majority_counts_the_most_frequent_class():
    labels = np.array([0, 1, 1, 1, 2])
    found = baselines.majority(labels == 0, labels)
    assert found.accuracy == pytest.approx(0.6)
    assert found.difference == pytest.approx(0.2 - 0.6)


def test_looks_passes_over_what_cannot_be_read():
    seen = baselines.extract_features([image(1, 0), ShardImage("bad", 1, b"no image")])
    assert seen.ids == ("0001",)
