import dataclasses

import numpy as np
import pytest
from PIL import Image

from pergola.components import digest
from pergola.components.artifacts.data import Shards, SplitShards
from pergola.components.artifacts.training import Augmentation
from pergola.components.training.augmentation import flip_safety
from pergola.components.training.augmentation.augment import (
    AugmentSettings,
    augment,
    no_augmentation,
    strengths,
)
from pergola.components.training.input import augmentation_ops
from pergola.components.training.input.images import ImageShape, read_split
from tests.components.training.conftest import LABELS, write_shards


def batch(num_images=6, side=12, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (num_images, side, side, channels), np.uint8)
    return pixels, np.eye(3, dtype=np.float32)[np.arange(num_images) % 3]


def augmented_batch(policy, images=None, targets=None, seed=(1, 2)):
    default_images, default_targets = batch()
    images = default_images if images is None else images
    targets = default_targets[: len(images)] if targets is None else targets
    augmented, mixed = augmentation_ops.augment(images, targets, seed, policy)
    return np.asarray(augmented), np.asarray(mixed)


EACH = {
    "flip_horizontal": 1.0,
    "flip_vertical": 1.0,
    "rotation_degrees": 20.0,
    "shift": 0.2,
    "zoom": 0.3,
    "brightness": 0.2,
    "contrast": 0.4,
    "hue": 0.2,
    "cutout": 0.4,
    "mixup": 1.0,
}


def test_augmentation_ops_without_a_policy_changes_nothing():
    images, targets = batch()
    augmented, same = augmented_batch({}, images, targets)
    np.testing.assert_array_equal(augmented, images.astype(np.float32))
    np.testing.assert_array_equal(same, targets)


@pytest.mark.parametrize("key", augmentation_ops.KEYS)
def test_augmentation_ops_changes_images_by_each_key_and_only_by_the_seed(key):
    policy = {key: EACH[key]}
    first, second, other = (
        augmented_batch(policy),
        augmented_batch(policy),
        augmented_batch(policy, seed=(1, 3)),
    )
    assert first[0].shape == (6, 12, 12, 3)
    assert first[0].min() >= 0.0 and first[0].max() <= 255.0
    assert np.abs(first[0] - batch()[0]).max() > 1
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert np.abs(first[0] - other[0]).max() > 1


def test_augmentation_ops_mirrors_exactly_and_about_half():
    images, _ = batch(64)
    augmented, _ = augmented_batch({"flip_horizontal": 1.0}, images, np.eye(64, dtype=np.float32))
    mirrored = np.abs(augmented - images[:, :, ::-1]).max((1, 2, 3)) < 0.01
    kept = np.abs(augmented - images).max((1, 2, 3)) < 0.01
    assert (mirrored ^ kept).all()
    assert 16 < mirrored.sum() < 48


def test_augmentation_ops_hue_leaves_grey_alone():
    grey = np.repeat(batch(channels=1)[0], 3, axis=-1)
    augmented, _ = augmented_batch({"hue": 0.3}, grey)
    np.testing.assert_allclose(augmented, grey, atol=0.01)


def test_augmentation_ops_cut_out_hides_at_most_its_share():
    images = batch(num_images=40, side=20)[0]
    augmented, _ = augmented_batch({"cutout": 0.5}, images, np.zeros((40, 3), np.float32))
    hidden = (augmented != images).any(-1).mean((1, 2))
    assert hidden.max() <= 0.25 + 0.05 and hidden.mean() > 0.1


def test_augmentation_ops_mixes_labels_as_it_mixes_images():
    _, targets = augmented_batch({"mixup": 1.0})
    np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-5)
    assert ((targets > 0).sum(1) == 2).all() and targets.max(1).min() >= 0.5


def digits_like(num=60):
    """Classes that are no longer themselves in a mirror: a bar at the left, one at the bottom right."""
    rng = np.random.default_rng(0)
    labels = np.arange(num) % 3
    images = rng.integers(0, 60, (num, 16, 16, 1))
    images[labels == 0, :, :5] += 180
    images[labels == 1, 9:, 9:] += 180
    images[labels == 2, :, 11:] += 180
    return images.astype(np.uint8), labels


@pytest.mark.parametrize("photographs", [True, False])
def test_flips_are_unsafe_if_two_classes_swap(photographs):
    verdict = flip_safety.check(*digits_like(), ("left", "corner", "right"), photographs=photographs)
    assert not verdict.is_safe and "'left'" in verdict.why and "'right'" in verdict.why


def test_flips_are_unsafe_if_small_images_are_no_longer_recognised():
    images, labels = digits_like()
    verdict = flip_safety.check(images[labels < 2], labels[labels < 2], ("left", "corner"), photographs=False)
    assert not verdict.is_safe


def test_flips_are_safe_if_classes_are_symmetric():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 60, (60, 16, 16, 1))
    images[labels == 0, :6] += 180
    images[labels == 1, 10:] += 180
    verdict = flip_safety.check(images.astype(np.uint8), labels, ("top", "bottom"), photographs=False)
    assert verdict.is_safe and "100%" in verdict.why


@pytest.mark.parametrize(
    ("side", "channels", "light"), [(64, 3, (0.3, 0.2)), (64, 1, (0.1, 0.1)), (16, 3, (0.1, 0.1))]
)
def test_augment_changes_the_light_of_photographs_more(tmp_path, side, channels, light):
    counts = {"train": (4, 4, 4), "validation": (2, 2, 2), "test": (2, 2, 2)}
    write_shards(tmp_path / "s", counts=counts, side=side, channels=channels)
    policy = augment(tmp_path / "s", tmp_path / "a", AugmentSettings(), seed=0).policy
    assert (policy["brightness"], policy["contrast"]) == light
    policy = augment(
        tmp_path / "s", tmp_path / "b", AugmentSettings(brightness=0.0, contrast=0.4), seed=0
    ).policy
    assert "brightness" not in policy and policy["contrast"] == 0.4


def test_strengths_leave_many_small_images_almost_as_they_are():
    def found(side, num_images):
        parts = {"train": SplitShards((), num_images, {})}
        return strengths(Shards(("a",), parts, 3, side, side, side, side, "f"))

    assert found(32, 10_000) == {"shift": 0.06}
    assert found(32, 9_999)["rotation_degrees"] == found(64, 10_000)["rotation_degrees"] == 10.0
    assert found(8, 100)["rotation_degrees"] == 10.0 and found(8, 100)["zoom"] == 0.1


def test_augment_takes_what_is_asked_for_over_its_own_strengths(shards_folder, tmp_path):
    asked = AugmentSettings(flip="none", zoom=0.2, shift=0)
    policy = augment(shards_folder, tmp_path, asked, seed=0).policy
    assert policy == {"rotation_degrees": 10.0, "zoom": 0.2, "brightness": 0.1, "contrast": 0.1}


def test_augmentation_ops_shifts_by_whole_pixels_where_nothing_turns_or_stretches():
    augmented, _ = augmented_batch({"shift": 0.2, "flip_horizontal": 1.0})
    np.testing.assert_array_equal(augmented, np.round(augmented))


def test_augment_saves_and_draws_its_policy(shards_folder, tmp_path):
    augmentation = augment(shards_folder, tmp_path, AugmentSettings(hue=0.1), seed=3)
    assert augmentation == Augmentation.load(tmp_path)
    assert augmentation.policy["rotation_degrees"] == 10.0 and "cutout" not in augmentation.policy
    assert augmentation.extra is None and augmentation.why
    sheet = np.asarray(Image.open(tmp_path / "preview.png").convert("RGB"))
    assert sheet.shape[0] > 3 * 112 and sheet.shape[1] > 8 * 112
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100


def test_augment_is_equal_for_equal_seeds(shards_folder, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        augment(shards_folder, tmp_path / name, AugmentSettings(expand=1), seed=seed)
    assert digest.of_folder(tmp_path / "a") == digest.of_folder(tmp_path / "b")
    assert digest.of_folder(tmp_path / "a") != digest.of_folder(tmp_path / "c")


def test_augment_writes_flipped_images_of_the_training_split_only(tmp_path):
    shards = write_shards(tmp_path / "shards")
    before = digest.of_folder(tmp_path / "shards")
    settings = dataclasses.replace(no_augmentation(), flip="horizontal", expand=1)
    augmentation = augment(tmp_path / "shards", tmp_path / "out", settings, seed=0)
    assert digest.of_folder(tmp_path / "shards") == before
    assert augmentation.policy == {}
    assert augmentation.extra.num_images == 48 and dict(augmentation.extra.by_label) == dict.fromkeys(
        LABELS, 16
    )
    shape = ImageShape(8, 8, 3, "stretch")
    images, labels = read_split(tmp_path / "shards", shards.splits["train"], shape)
    mirrored, mirrored_labels = read_split(tmp_path / "out", augmentation.extra, shape)
    np.testing.assert_array_equal(mirrored, images[:, :, ::-1])
    np.testing.assert_array_equal(mirrored_labels, labels)


def test_augment_expands_with_several_augmented_copies(shards_folder, tmp_path):
    augmentation = augment(shards_folder, tmp_path, AugmentSettings(expand=3), seed=0)
    shards = Shards.load(shards_folder)
    images, labels = read_split(tmp_path, augmentation.extra, ImageShape(8, 8, 3, "stretch"))
    assert len(labels) == 3 * shards.splits["train"].num_images
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
