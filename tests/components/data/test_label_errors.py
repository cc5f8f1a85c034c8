"""Wrong labels: the definitions of confident learning, folds that leak nothing, planted faults."""

from pathlib import Path

import numpy as np
import pytest

from components.data import label_errors
from components.data.label_errors import LabelErrorSettings, find_label_errors
from tests.support.planted import flipped, leaves

LEAVES = Path("../shared/data/leaves")
WEIGHTS = Path("../shared/data/weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5")


def clusters(per_class: int = 40, classes: int = 4, width: int = 8, seed: int = 0):
    """Embeddings that lie around a centre a class: float (N, D), and names of the classes."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(classes, width)
    truth = np.repeat(np.arange(classes), per_class)
    return centres[truth] + rng.normal(0, 1, (len(truth), width)), [f"class_{i}" for i in truth]


def names(count: int) -> list[str]:
    return [f"{i:05}" for i in range(count)]


def search(embeddings, labels, groups=None, **settings):
    ids = names(len(labels))
    paths = [f"{label}/{id}.png" for id, label in zip(ids, labels, strict=True)]
    return find_label_errors(embeddings, ids, paths, labels, groups, LabelErrorSettings(**settings))


def test_find_label_errors_puts_flipped_labels_first():
    embeddings, truth = clusters(per_class=100)
    given, planted = flipped(truth, 0.05, seed=1)
    found = search(embeddings, given)
    assert sum(int(s.id) in planted for s in found.suspects[: len(planted)]) >= len(planted) - 1
    first = found.suspects[0]
    index = int(first.id)
    assert (first.label, first.suggested) == (given[index], truth[index])
    flagged = [int(suspect.id) in planted for suspect in found.suspects if suspect.flagged]
    assert first.flagged and len(flagged) == found.num_flagged >= 0.7 * len(planted)
    assert np.mean(flagged) > 0.8
    assert [s.quality for s in found.suspects] == sorted(s.quality for s in found.suspects)
    assert "labels look wrong" in label_errors.finding(found).message


def test_find_label_errors_is_silent_on_clean_clusters():
    embeddings, truth = clusters(seed=3)
    found = search(2 * embeddings, truth)
    assert found.num_images == 160 and found.num_flagged <= 1
    embeddings[:] = np.eye(4, 8)[np.repeat(np.arange(4), 40)]
    assert label_errors.finding(search(embeddings, truth)) is None


def test_find_label_errors_leaves_small_classes_out():
    embeddings, truth = clusters(per_class=6)
    truth[:2] = ["rare", "rare"]
    found = search(embeddings, truth)
    assert found.not_judged == ("class_0", "rare")
    assert found.num_images == 18
    assert search(embeddings[:6], truth[:6]).suspects == ()


def test_find_label_errors_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="Got 4, 3, 3 and 3"):
        find_label_errors(np.zeros((4, 2)), names(3), names(3), names(3))


def test_out_of_fold_never_predicts_a_group_that_was_seen():
    """Labels are chance and copies are exact: only a leak across folds could do better than chance."""
    rng = np.random.default_rng(0)
    single, truth = rng.normal(size=(200, 100)), rng.integers(0, 2, 200)
    embeddings, labels, groups = (
        np.repeat(single, 3, axis=0),
        np.repeat(truth, 3),
        np.repeat(np.arange(200), 3),
    )
    settings = LabelErrorSettings(regularisation=1e4)
    held = label_errors.out_of_fold(embeddings, labels, groups, settings)
    leaked = label_errors.out_of_fold(embeddings, labels, np.arange(600), settings)
    assert np.mean(held.argmax(axis=1) == labels) < 0.6
    assert np.mean(leaked.argmax(axis=1) == labels) > 0.7
    assert np.allclose(held.sum(axis=1), 1)


def test_out_of_fold_gives_a_class_that_a_fold_lacks_probability_zero():
    embeddings = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.array([0] * 20 + [1] * 18 + [2] * 2)
    groups = np.array([*range(38), 38, 38])
    with pytest.warns(UserWarning, match="least populated"):
        found = label_errors.out_of_fold(embeddings, labels, groups, LabelErrorSettings())
    assert found[38:, 2].tolist() == [0, 0]
    assert np.allclose(found.sum(axis=1), 1)


def test_rank_follows_the_published_definition():
    """Northcutt et al. 2021, section 3.1, computed by hand: thresholds are mean self-confidences.

    t = (0.7, 0.6): rows 0 to 2 are called 0; row 2 lies above t_1 alone, so it counts as a 0 that is a 1.
    Row 5 is called 1 and lies above t_0 alone. The joint is ((2, 1), (1, 2)): one error each way.
    """
    probabilities = np.array([[0.95, 0.05], [0.9, 0.1], [0.25, 0.75], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    order, quality, flagged = label_errors.rank(labels, probabilities)
    assert quality.tolist() == pytest.approx([0.95, 0.9, 0.25, 0.9, 0.8, 0.1])
    assert order[:2].tolist() == [5, 2]
    assert flagged.tolist() == [False, False, True, False, False, True]


@pytest.mark.slow
@pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the photographs in ../shared/data")
def test_find_label_errors_in_leaves_with_five_percent_flipped():
    found = leaves(WEIGHTS)
    given, planted = flipped(found.labels, 0.05, seed=0)
    errors = find_label_errors(found.embeddings, found.ids, found.paths, given)
    ids = {found.ids[i] for i in planted}
    first = errors.suspects[: len(planted)]
    assert np.mean([suspect.id in ids for suspect in first]) >= 0.8
