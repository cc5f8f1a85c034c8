import numpy as np
import pytest

from pergola.components.artifacts.data import Shards
from pergola.components.training.input import feed
from pergola.components.training.input.images import ImageShape, read_sources, read_split
from tests.components.training.conftest import write_shards

POLICY = {"flip_horizontal": 1.0, "rotation_degrees": 10.0, "brightness": 0.1, "mixup": 0.3}
WHOLE = feed.BatchSplit()
SHAPE = ImageShape(8, 8, 3, "stretch")


@pytest.fixture(params=["memory", "stream"])
def make(request, shards_folder):
    shards = Shards.load(shards_folder)
    part = shards.splits["train"]

    def make(policy=POLICY, seed=5, weights=(), split=WHOLE):
        settings = feed.FeedSettings(10, seed, policy, 3, weights, split=split)
        if request.param == "memory":
            return feed.MemoryFeed(*read_split(shards_folder, part, SHAPE), settings)
        files = [str(shards_folder / name) for name in part.files]
        return feed.StreamFeed(files, list(part.by_label.values()), SHAPE, settings)

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


def test_feed_shows_each_image_at_most_once_an_epoch_in_another_order_each(make):
    source = make(policy={})
    epochs = [np.concatenate([images for images, _ in collect(source, 4 * k, 4 * k + 4)]) for k in (0, 1)]
    for images in epochs:
        assert images.shape == (40, 8, 8, 3)
        assert len(np.unique(images.reshape(40, -1), axis=0)) == 40
    assert not np.array_equal(epochs[0], epochs[1])


def test_feed_depends_on_the_seed(make):
    one, other = collect(make(seed=1), 0, 1)[0], collect(make(seed=2), 0, 1)[0]
    assert not np.array_equal(one[0], other[0])


@pytest.mark.slow
def test_feed_splits_batches_into_pieces_that_together_are_the_batches(make):
    whole = collect(make(policy={}), 3, 6)
    halves = collect(make(policy={}, split=feed.BatchSplit(accumulate=2)), 6, 12)
    for step, (images, _) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([i for i, _ in halves[2 * step : 2 * step + 2]]), images)
    workers = [collect(make(policy={}, split=feed.BatchSplit(worker=k, workers=2)), 3, 6) for k in (0, 1)]
    for (images, _), (first, _), (second, _) in zip(whole, *workers, strict=True):
        np.testing.assert_array_equal(np.concatenate([first, second]), images)
    replicas = collect(make(policy={}, split=feed.BatchSplit(replicas=5)), 3, 6)
    assert {images.shape for images, _ in replicas} == {(2, 8, 8, 3)} and len(replicas) == 15
    np.testing.assert_array_equal(replicas[5][0], whole[1][0][:2])


@pytest.mark.slow
@pytest.mark.parametrize("memory", [True, False])
def test_feed_draws_classes_equally_often_if_asked(tmp_path, memory):
    counts = (30, 6, 12)
    shards = write_shards(tmp_path, counts={"train": counts, "validation": (1, 1, 1), "test": (1, 1, 1)})
    part = shards.splits["train"]
    settings = feed.FeedSettings(16, 0, {}, 3, sample=True)
    source = (
        feed.MemoryFeed(*read_split(tmp_path, part, SHAPE), settings)
        if memory
        else feed.StreamFeed([str(tmp_path / part.files[0])], counts, SHAPE, settings)
    )
    batches = collect(source, 0, 3 * source.steps)
    drawn = sum(targets.sum(0) for _, targets in batches)
    assert drawn.sum() == 3 * 48
    np.testing.assert_allclose(drawn, 48, atol=0 if memory else 16)
    same = collect(source, 4, 9)
    np.testing.assert_array_equal(same[0][0], batches[4][0])


def test_feed_weights_images_by_class(make):
    _, targets, weights = collect(make(policy={}, weights=(1.0, 2.0, 3.0)), 0, 1)[0]
    np.testing.assert_array_equal(weights, targets @ [1, 2, 3])


def test_read_sources_separates_its_sources(shards_folder):
    shards = Shards.load(shards_folder)
    names = {part: [str(shards_folder / n) for n in shards.splits[part].files] for part in ("train", "test")}
    (some, _), (test, labels) = read_sources([(names["train"], 5), (names["test"], 18)], SHAPE)
    assert len(some) == 5 and len(test) == 18
    alone, alone_labels = read_split(shards_folder, shards.splits["test"], SHAPE)
    np.testing.assert_array_equal(test, alone)
    np.testing.assert_array_equal(labels, alone_labels)


def test_read_sources_of_an_empty_split_is_empty(shards_folder):
    images, labels = read_sources([([], 0)], SHAPE)[0]
    assert images.shape == (0, 8, 8, 3) and labels.shape == (0,)
