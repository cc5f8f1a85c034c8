"""Wrong labels: the definitions of confident learning, folds that leak nothing, planted faults."""

from pathlib import Path

import numpy as np
import pytest

from pergola.components.data.checks import label_errors
from pergola.components.data.checks.label_errors import LabelErrorSettings, find_label_errors
from tests.support.planted import flipped, leaves

LEAVES = Path("../shared/data/leaves")
WEIGHTS = Path("../shared/data/weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5")


def clusters(per_class: int = 40, classes: int = 4, width: int = 8, seed: int = 0, noise: float = 0.7):
    """Embeddings that lie around a centre a class: float (N, D), and names of the classes."""
    rng = np.random.default_rng(seed)
    centres = 4 * np.eye(classes, width)
    truth = np.repeat(np.arange(classes), per_class)
    return centres[truth] + rng.normal(0, noise, (len(truth), width)), [f"class_{i}" for i in truth]


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
    found = search(embeddings, truth)
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


def test_label_errors_say_how_good_the_judge_is():
    embeddings, truth = clusters(per_class=100)
    given, _ = flipped(truth, 0.05, seed=1)
    sure = search(embeddings, given)
    assert sure.accuracy > 0.98 and sure.interval[0] < sure.accuracy < sure.interval[1]
    assert label_errors.finding(sure).severity == "warning"
    vague = search(embeddings + np.random.default_rng(0).normal(0, 2, embeddings.shape), given)
    told = label_errors.finding(vague, "three grains of salt")
    assert told.severity == "info" and "is based on three grains of salt" in told.message
    assert "read the list from the top" in told.message
    assert told.notes[0] == f"looks like {next(s for s in vague.suspects if s.flagged).suggested}"


def test_label_errors_are_not_asked_twice():
    embeddings, truth = clusters(per_class=100)
    found = search(embeddings, flipped(truth, 0.05, seed=1)[0])
    known = {suspect.id for suspect in found.suspects[:3]}
    left = found.without(known)
    assert not known & {suspect.id for suspect in left.suspects}
    assert left.num_flagged == found.num_flagged - sum(suspect.flagged for suspect in found.suspects[:3])


@pytest.mark.slow
@pytest.mark.skipif(not LEAVES.is_dir(), reason="needs the photographs in ../shared/data")
def test_find_label_errors_in_leaves_with_five_percent_flipped():
    found = leaves(WEIGHTS)
    given, planted = flipped(found.labels, 0.05, seed=0)
    errors = find_label_errors(found.embeddings, found.ids, found.paths, given)
    ids = {found.ids[i] for i in planted}
    first = errors.suspects[: len(planted)]
    assert np.mean([suspect.id in ids for suspect in first]) >= 0.8
