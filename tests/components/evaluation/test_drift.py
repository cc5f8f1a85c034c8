"""Drift: what moved is found and named, what did not is not, and looks share one budget."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from pergola.components.errors import InputError
from pergola.components.evaluation.drift import drift as d
from pergola.components.evaluation.drift.reference import (
    DriftReference,
    Sample,
    concatenated,
    describe,
    make_reference,
)
from tests.support import images

LABELS = ("a", "b", "c")


def sample(count: int, seed: int, *, shares=(0.5, 0.3, 0.2), brightness=120.0, away=0.0) -> Sample:
    """Answers, confidence, brightness and embeddings that depend on one another."""
    rng = np.random.default_rng(seed)
    predicted = rng.choice(3, count, p=shares)
    vectors = rng.normal(size=(count, 8)) + 3 * np.eye(3, 8)[predicted]
    vectors[:, 5] += away
    confidence = 1 / (1 + np.exp(-np.abs(vectors[:, 0])))
    columns = {
        "brightness": rng.normal(brightness, 20, count) + vectors[:, 1],
        "width": np.full(count, 224.0),
    }
    return Sample(predicted, confidence, columns, vectors.astype(np.float32))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    confusion = np.array([[180, 15, 5], [10, 105, 5], [4, 6, 70]])
    make_reference(sample(400, 0), LABELS, confusion, folder)
    return folder


def test_drift_is_silent_when_nothing_moved(reference):
    found = d.drift(reference, sample(500, 1))
    assert found.judged and not found.drifted and found.reasons == ()
    assert {t.name for t in found.tests} == {"prior", "confidence", "brightness", "width", "embedding"}
    assert (found.num_reference, found.num_live) == (400, 500)


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ({"brightness": 140.0}, "brightness", r"median of brightness is 14\d.*, was 12\d"),
        ({"shares": (0.3, 0.3, 0.4)}, "prior", r"[34]\d\.\d% of predictions are '[ac]', was \d\d\.\d%"),
        ({"away": 2.0}, "embedding", "distribution of embeddings changed"),
    ],
)
def test_drift_names_what_moved(reference, change, name, words):
    found = d.drift(reference, sample(500, 2, **change))
    tests = {test.name: test for test in found.tests}
    assert found.drifted and tests[name].drifted
    assert not tests["width"].drifted
    assert any(re.search(words, reason) for reason in found.reasons)


def test_drift_shows_the_requests_that_are_unlike(reference):
    live = sample(300, 3)
    live.embeddings[150:190, 6] += 8
    found = d.drift(reference, live)
    assert set(found.unlike) <= set(range(150, 190)) and len(found.unlike) == 12


def test_drift_judges_embeddings_of_some_of_the_requests(reference):
    live = sample(300, 10)
    live.embeddings[150:190, 6] += 8
    some = np.arange(0, 300, 2)
    part = dataclasses.replace(live, embeddings=live.embeddings[some], embedded=some)
    found = d.drift(reference, part)
    assert {test.name for test in found.tests if test.drifted} == {"embedding"}
    assert set(found.unlike) <= set(range(150, 190, 2)) and len(found.unlike) == 12
    later = d.drift(reference, part, d.DriftSettings(max_requests=150))
    assert later.num_live == 150 and set(later.unlike) <= set(range(150, 190, 2))


def test_drift_looks_at_the_last_requests_only(reference):
    old, new = sample(100, 4, away=5.0), sample(100, 5)
    both = Sample(
        np.append(old.predicted, new.predicted),
        np.append(old.confidence, new.confidence),
        {name: np.append(old.statistics[name], new.statistics[name]) for name in new.statistics},
        np.concatenate([old.embeddings, new.embeddings]),
    )
    found = d.drift(reference, both, d.DriftSettings(max_requests=100))
    assert found.num_live == 100 and not found.drifted
    assert min(found.unlike) >= 100


def test_drift_forgives_what_is_sure_but_small(reference):
    live = sample(2000, 6, brightness=125.0)
    found = d.drift(reference, live, d.DriftSettings(min_shift=0.2))
    sure = {test.name for test in found.tests if test.adjusted_p <= found.alpha}
    assert not found.drifted and sure == {"brightness"}


def test_drift_does_not_judge_few_requests(reference):
    found = d.drift(reference, sample(20, 7, away=9.0))
    assert not found.judged and not found.drifted
    assert found.reasons == ("20 requests are too few: at least 50 are needed.",)


def test_drift_refuses_another_models_log(reference):
    other = sample(100, 8)
    with pytest.raises(InputError, match="class number 3, the reference has 3 classes"):
        d.drift(reference, Sample(np.append(other.predicted[1:], 3), other.confidence))
    with pytest.raises(InputError, match="have 4 numbers, the reference's 8"):
        d.drift(reference, Sample(other.predicted, other.confidence, {}, other.embeddings[:, :4]))


def test_drift_takes_unknown_statistics_and_logs_without_embeddings(reference, tmp_path):
    live = sample(200, 9)
    live.statistics["brightness"][:150] = np.nan
    found = d.drift(reference, Sample(live.predicted, live.confidence, live.statistics))
    tests = {test.name: test for test in found.tests}
    assert tests["brightness"].drifted and "embedding" not in tests and found.unlike == ()
    found.save(tmp_path)
    assert d.DriftReport.load(tmp_path) == found


def test_alpha_at_never_spends_more_than_alpha():
    renewing, endless = d.DriftSettings(), d.DriftSettings(spending="endless")
    assert sum(d.alpha_at(k, renewing) for k in range(1, 21)) == pytest.approx(0.05)
    assert d.alpha_at(21, renewing) == d.alpha_at(1, renewing)
    spent = sum(d.alpha_at(k, endless) for k in range(1, 100_000))
    assert 0.0499 < spent < 0.05
    with pytest.raises(ValueError, match="counted from 1"):
        d.alpha_at(0, renewing)


def test_class_shifts_recover_a_known_shift(reference):
    """Answers are drawn from known true shares through the known confusion: only those can come out."""
    record = DriftReference.load(reference)
    rates = np.array(record.confusion) / np.array(record.confusion).sum(axis=1, keepdims=True)
    true = np.array([0.1, 0.3, 0.6])
    after = np.random.default_rng(0).choice(3, 100_000, p=true @ rates)
    shifts = d.class_shifts(record, np.array([0, 1, 2]), after)
    assert [s.estimated for s in shifts] == pytest.approx(true, abs=0.01)
    assert [s.live for s in shifts] == pytest.approx(true @ rates, abs=0.01)


def test_class_shifts_do_not_guess_when_the_confusion_is_singular():
    record = DriftReference(LABELS, 9, ((3, 0, 0), (3, 0, 0), (0, 0, 3)), (), 0)
    assert [s.estimated for s in d.class_shifts(record, np.zeros(3, int), np.zeros(3, int))] == [None] * 3


def test_samples_are_joined_and_cut_with_their_embeddings():
    first = dataclasses.replace(sample(4, 0), embeddings=np.array([[1.0], [3.0]]), embedded=np.array([1, 3]))
    second = dataclasses.replace(sample(3, 1), embeddings=None)
    third = dataclasses.replace(sample(2, 2), embeddings=np.array([[7.0], [8.0]]))
    both = concatenated([first, second, third])
    assert len(both) == 9 and both.embedded.tolist() == [1, 3, 7, 8] and not both.all_embedded
    assert both.embeddings.ravel().tolist() == [1, 3, 7, 8]
    cut = both.rows(slice(3, None))
    assert cut.embedded.tolist() == [0, 4, 5] and cut.embeddings.ravel().tolist() == [3, 7, 8]
    assert concatenated([third, third]).embedded is None


def test_reference_comes_back_and_is_bounded(tmp_path):
    given = sample(6000, 0)
    record = make_reference(given, LABELS, np.eye(3, dtype=int), tmp_path)
    found = DriftReference.sample(tmp_path)
    assert DriftReference.load(tmp_path) == record and record.num_images == len(found) == 5000
    assert set(np.round(found.confidence, 6)) <= set(np.round(given.confidence.astype(np.float32), 6))
    small = given.rows(slice(0, 10))
    make_reference(small, LABELS, np.eye(3, dtype=int), tmp_path)
    found = DriftReference.sample(tmp_path)
    assert found.predicted.tolist() == small.predicted.tolist()
    assert np.allclose(found.embeddings, small.embeddings, atol=0.01)
    assert np.allclose(found.statistics["brightness"], small.statistics["brightness"])


def test_describe_measures_images_as_the_scan_does():
    white = images.png(np.full((20, 30, 3), 255, np.uint8))
    encoded = [white, images.truncated(images.png(images.pixels(0, 0)))]
    found = describe(encoded, np.array([[0.2, 0.8], [0.6, 0.4]]), lambda batch: np.ones((len(batch), 3)))
    assert found.predicted.tolist() == [1, 0] and found.confidence.tolist() == [0.8, 0.6]
    first = {name: float(values[0]) for name, values in found.statistics.items()}
    assert first["brightness"] == 255 and first["contrast"] == 0 and first["bytes"] == len(white)
    assert (first["width"], first["height"]) == (30, 20)
    assert np.isnan(found.statistics["width"][1]) and found.embeddings.shape == (2, 3)
