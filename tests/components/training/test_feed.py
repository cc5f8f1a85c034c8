import numpy as np
import pytest

from components.artifacts import Shards
from components.training import feed

POLICY = {"flip_horizontal": 1.0, "rotation_degrees": 10.0, "brightness": 0.1, "mixup": 0.3}
SHAPE = feed.Shape(8, 8, 3, "stretch")


@pytest.fixture(params=["memory", "stream"])
def make(request, shards_folder):
    shards = Shards.load(shards_folder)
    part = shards.parts["train"]

    def make(policy=POLICY, seed=5, weights=()):
        variety = feed.Variety(10, seed, policy, 3, weights)
        if request.param == "memory":
            return feed.MemoryFeed(*feed.read(shards_folder, part, SHAPE), variety)
        files = [str(shards_folder / name) for name in part.files]
        return feed.StreamFeed(files, part.num_images, SHAPE, variety)

    return make


def collect(source, first, last):
    return [tuple(part.numpy() for part in batch) for batch in source.batches(first, last)]


def test_feed_gives_the_same_batches_from_any_step_on(make):
    source = make()
    assert source.steps == 4
    whole = collect(source, 0, 9)
    assert len(whole) == 9
    for step in (1, 4, 7):
        for (images, targets), (same_images, same_targets) in zip(
            whole[step:], collect(make(), step, 9), strict=True
        ):
            np.testing.assert_array_equal(images, same_images)
            np.testing.assert_array_equal(targets, same_targets)


def test_feed_shows_each_picture_at_most_once_an_epoch_in_another_order_each(make):
    source = make(policy={})
    epochs = [np.concatenate([images for images, _ in collect(source, 4 * k, 4 * k + 4)]) for k in (0, 1)]
    for images in epochs:
        assert images.shape == (40, 8, 8, 3)
        assert len(np.unique(images.reshape(40, -1), axis=0)) == 40
    assert not np.array_equal(epochs[0], epochs[1])


def test_feed_depends_on_the_seed(make):
    one, other = collect(make(seed=1), 0, 1)[0], collect(make(seed=2), 0, 1)[0]
    assert not np.array_equal(one[0], other[0])


def test_feed_weighs_pictures_by_class(make):
    _, targets, weights = collect(make(policy={}, weights=(1.0, 2.0, 3.0)), 0, 1)[0]
    np.testing.assert_array_equal(weights, targets @ [1, 2, 3])


def test_read_all_keeps_the_lists_apart(shards_folder):
    shards = Shards.load(shards_folder)
    names = {part: [str(shards_folder / n) for n in shards.parts[part].files] for part in ("train", "test")}
    (some, _), (test, labels) = feed.read_all([(names["train"], 5), (names["test"], 18)], SHAPE)
    assert len(some) == 5 and len(test) == 18
    alone, alone_labels = feed.read(shards_folder, shards.parts["test"], SHAPE)
    np.testing.assert_array_equal(test, alone)
    np.testing.assert_array_equal(labels, alone_labels)


def test_read_of_an_empty_part_is_empty(shards_folder):
    images, labels = feed.read_all([([], 0)], SHAPE)[0]
    assert images.shape == (0, 8, 8, 3) and labels.shape == (0,)
