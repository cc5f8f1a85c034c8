import base64
import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from pergola.components.artifacts.data import Split
from pergola.components.artifacts.evaluation import Evaluation, GoldenRequests
from pergola.components.data.shard_reader import read_images
from pergola.components.errors import InputError, StepError
from pergola.components.evaluation import figures
from pergola.components.evaluation.calibration import Calibration
from pergola.components.evaluation.cost_report import CostReport, compare_costs
from pergola.components.evaluation.evaluate import EvaluateSettings, evaluate
from pergola.components.evaluation.export_notes import ExportNotes
from pergola.components.evaluation.saliency import Saliency
from pergola.components.evaluation.slices import Slices
from pergola.components.stats.compare import compare_evaluations
from pergola.components.stats.costs import Costs
from pergola.components.stats.temperature import apply_temperature
from tests.components.evaluation.conftest import LABELS, by_brightness, saliency, tfrecord

SETTINGS = EvaluateSettings(batch_size=7)


def test_evaluate_scores_the_test_part_as_sklearn_does(walk, tmp_path):
    got = evaluate(by_brightness((40, 200, 210)), walk.shards, walk.split, tmp_path, SETTINGS)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    assert len(rows) == got.num_images == 30
    assert got.accuracy == reference.accuracy_score(rows["label"], rows["predicted"])
    assert 0 < got.accuracy < 1
    wanted = reference.confusion_matrix(rows["label"], rows["predicted"], labels=LABELS)
    np.testing.assert_array_equal(got.confusion, wanted)
    assert got == Evaluation.load(tmp_path)


def test_evaluate_pairs_images_with_their_paths(walk, tmp_path):
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    split = Split.table(walk.split).set_index("id")
    assert list(rows["id"]) == sorted(rows["id"])
    assert list(rows["path"]) == list(split.loc[rows["id"], "path"])
    assert list(rows["label"]) == list(split.loc[rows["id"], "label"])
    assert np.allclose(np.stack(rows["probabilities"]).max(axis=1), rows["probability"])


def test_evaluate_gives_every_figure_an_interval(walk, tmp_path):
    got = evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS)
    figures = {"accuracy": got.accuracy, "macro_f1": got.macro_f1, "top_3": got.top_k["3"]}
    figures["train_accuracy"] = got.train_accuracy
    figures["calibration_error"] = got.calibration_error
    assert got.intervals.keys() == figures.keys()
    for name, value in figures.items():
        low, high = got.intervals[name]
        assert low <= value <= high
    assert got.intervals["accuracy"][0] < 1


def test_evaluate_holds_the_model_against_baselines(walk, tmp_path):
    got = evaluate(by_brightness((40, 200, 210)), walk.shards, walk.split, tmp_path, SETTINGS)
    accuracies = {base.name: base.accuracy for base in got.baselines}
    assert accuracies.keys() == {"majority", "metadata", "nearest_neighbour"}
    assert accuracies["majority"] == pytest.approx(1 / 3)
    assert accuracies["metadata"] > 0.8  # brightness gives these classes away
    for base in got.baselines:
        assert base.difference == pytest.approx(got.accuracy - base.accuracy)
        assert base.interval[0] <= base.difference <= base.interval[1]


def test_evaluate_scores_changed_images(walk, tmp_path):
    got = evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS)
    assert got.accuracy == 1.0
    change = {change.name: change for change in got.robustness}
    assert change.keys() == {"blur", "jpeg", "darker", "brighter", "rotation"}
    assert change["blur"].accuracy == change["rotation"].accuracy == 1.0
    assert change["darker"].difference == pytest.approx(change["darker"].accuracy - 1)
    assert change["darker"].difference < 0  # light ones are taken for grey


COSTS = Costs(LABELS, (*LABELS, "ask a person"), ((0, 1, 1, 0.2), (1, 0, 9, 0.2), (1, 1, 0, 0.2)))


def test_evaluate_measures_calibration_before_and_after_the_temperature(walk, tmp_path):
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS, notes=ExportNotes(2.0))
    found = Calibration.load(tmp_path)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    served = np.stack(rows["probabilities"])
    assert found.temperature == 2.0 and found.before is not None
    labels = rows["label"].map(LABELS.index)
    raw = apply_temperature(served, 0.5)
    assert found.log_loss == pytest.approx(reference.log_loss(labels, served), rel=1e-5)
    assert found.before.log_loss == pytest.approx(reference.log_loss(labels, raw), rel=1e-5)
    named = figures.of(tmp_path)
    assert (named["temperature"], named["calibration_error"]) == (2.0, found.error)
    assert "cost_per_1000" not in named


def test_evaluate_counts_what_errors_cost_beside_the_champion(walk, tmp_path):
    new = by_brightness((40, 195, 210))
    inside = ExportNotes(costs=COSTS)
    evaluate(new, walk.shards, walk.split, tmp_path / "new", SETTINGS, notes=inside)
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path / "old", SETTINGS, with_train=False)
    assert Costs.load(tmp_path / "new") == COSTS
    alone = CostReport.load(tmp_path / "new")
    rows = pd.read_parquet(tmp_path / "new" / "predictions.parquet")
    chosen = (np.stack(rows["probabilities"]) @ np.array(COSTS.matrix)).argmin(axis=1)
    paid = np.array(COSTS.matrix)[rows["label"].map(LABELS.index), chosen]
    assert alone.spendings[0].per_thousand == pytest.approx(1000 * paid.mean())
    assert alone.saving_over_champion is None and len(alone.curve) > 2
    assert figures.of(tmp_path / "new")["cost_per_1000"] == alone.spendings[0].per_thousand
    both = compare_costs(tmp_path / "new", tmp_path / "old")
    assert both.spendings[:3] == alone.spendings and both.spendings[3].name == "champion"
    assert both.saving_over_champion == pytest.approx(
        both.spendings[3].per_thousand - alone.spendings[0].per_thousand
    )
    assert compare_costs(tmp_path / "old", tmp_path / "new") is None


def test_evaluate_scores_slices_and_says_which_are_too_small(walk, tmp_path):
    settings = EvaluateSettings(slice_min_images=12)
    got = evaluate(by_brightness((40, 195, 210)), walk.shards, walk.split, tmp_path, settings,
                   manifest_folder=walk.manifest)  # fmt: skip
    slices = {(one.column, one.name): one for one in Slices.load(tmp_path).slices}
    assert {column for column, _ in slices} == {"brightness", "camera"}  # all else has one value only
    camera = [slices["camera", name] for name in "ab"]
    assert sum(one.num_images * one.accuracy for one in camera) == pytest.approx(30 * got.accuracy)
    assert {one.verdict for one in camera} == {"alike"}
    grey = slices["brightness", "120"]
    assert (grey.num_images, grey.verdict) == (10, "too small to judge")
    assert grey.accuracy == next(score.recall for score in got.per_class if score.label == "grey")


def test_evaluate_keeps_where_the_model_looked_in_its_surest_errors(walk, tmp_path):
    settings = EvaluateSettings(explain=3)
    evaluate(by_brightness((40, 195, 210)), walk.shards, walk.split, tmp_path, settings, explain=saliency)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    wrong = rows[rows["label"] != rows["predicted"]].sort_values("probability", ascending=False)
    maps = Saliency.load(tmp_path).maps
    assert set(maps) == set(wrong["id"][:3])
    assert next(iter(maps.values())).array().tolist() == [[255, 0], [0, 0]]


def test_evaluate_leaves_out_what_it_is_told_to(walk, tmp_path):
    settings = EvaluateSettings(baseline_sample=0, robustness_sample=0, slices=False, explain=0)
    more = {"manifest_folder": walk.manifest, "explain": saliency}
    got = evaluate(by_brightness(), walk.shards, walk.split, tmp_path, settings, **more)
    assert [base.name for base in got.baselines] == ["majority"]
    assert got.robustness == ()
    assert not {"slices.json", "saliency.json", "cost_report.json"} & {
        path.name for path in tmp_path.iterdir()
    }


def test_evaluate_twice_writes_equal_files(walk, tmp_path):
    for name in ("a", "b"):
        evaluate(by_brightness(), walk.shards, walk.split, tmp_path / name, SETTINGS)
    for file in ("evaluation.json", "predictions.parquet", "golden.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_evaluate_does_not_depend_on_the_batch_size(walk, tmp_path):
    one = evaluate(by_brightness(), walk.shards, walk.split, tmp_path / "a", EvaluateSettings(batch_size=1))
    many = evaluate(by_brightness(), walk.shards, walk.split, tmp_path / "b", EvaluateSettings())
    assert one.confusion == many.confusion


def test_evaluate_scores_a_seeded_sample_of_the_training_part(walk, tmp_path):
    few = evaluate(by_brightness(), walk.shards, walk.split, tmp_path, EvaluateSettings(train_sample=5))
    assert few.num_train == 5
    every = evaluate(by_brightness(), walk.shards, walk.split, tmp_path, EvaluateSettings(train_sample=0))
    assert every.num_train == 36


def test_golden_requests_hold_a_image_of_each_class_and_its_answer(walk, tmp_path):
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS)
    golden = GoldenRequests.load(tmp_path)
    assert len(golden.requests) == 8
    assert {request.label for request in golden.requests} == set(LABELS)
    images = [base64.b64decode(request.image) for request in golden.requests]
    answers = by_brightness()(images)
    np.testing.assert_allclose(answers, [request.probabilities for request in golden.requests])
    assert set(images) <= {image.image for image in read_images(walk.shards, "test")}


def test_golden_requests_hold_the_decisions_that_the_costs_allow(walk, tmp_path):
    notes = ExportNotes(costs=COSTS)
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path / "sure", SETTINGS, notes=notes)
    for request in GoldenRequests.load(tmp_path / "sure").requests:
        expected = np.array(request.probabilities) @ np.array(COSTS.matrix)
        assert COSTS.actions[expected.argmin()] in request.decisions and len(request.decisions) == 1
    evaluate(unsure, walk.shards, walk.split, tmp_path / "unsure", SETTINGS, notes=notes)
    either = {request.decisions for request in GoldenRequests.load(tmp_path / "unsure").requests}
    assert either == {("dark", "ask a person")}


def unsure(images):
    """A model whose probabilities make two actions cost about the same: 0.2."""
    return np.tile(np.array([0.8001, 0.0999, 0.1], np.float32), (len(images), 1))


def test_golden_requests_hold_what_else_the_model_answers(walk, tmp_path):
    def reply(images):
        named = np.array([b"wrong name"] * len(images), dtype=object)
        score = np.array([[len(image), 1.0] for image in images], np.float32)
        return {"probabilities": by_brightness()(images), "label": named, "score": score, "colour": named}

    evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS, reply=reply)
    golden = GoldenRequests.load(tmp_path)
    assert golden.outputs == ("colour", "label", "probabilities", "score")
    for request in golden.requests:
        size = len(base64.b64decode(request.image))
        assert request.outputs == {"score": [size, 1.0], "colour": "wrong name"}
        assert request.label == LABELS[int(np.argmax(request.probabilities))]  # of the shards


@pytest.mark.parametrize("values", [[np.nan], [1.0, 2.0]])
def test_evaluate_refuses_an_output_that_no_server_can_be_compared_with(walk, tmp_path, values):
    with pytest.raises(StepError, match=r"output 'score' has shape .*, expected one row of finite values"):
        evaluate(by_brightness(), walk.shards, walk.split, tmp_path, SETTINGS,
                 reply=lambda images: {"score": np.array(values)})  # fmt: skip


def test_golden_requests_are_as_many_as_there_are_images(walk, tmp_path):
    settings = EvaluateSettings(golden=100)
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path, settings)
    assert len(GoldenRequests.load(tmp_path).requests) == 30


def test_champion_with_fewer_classes_is_judged_on_the_same_images(walk, tmp_path):
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path / "new", SETTINGS)
    champion = evaluate(
        by_brightness((210, 40)),
        walk.shards,
        walk.split,
        tmp_path / "old",
        SETTINGS,
        model_labels=("light", "dark"),
        with_train=False,
    )
    assert champion.train_accuracy is None
    assert champion.labels == LABELS
    recall = {score.label: score.recall for score in champion.per_class}
    assert recall == {"dark": 1.0, "grey": 0.0, "light": 1.0}
    pair = compare_evaluations(tmp_path / "new", tmp_path / "old")
    assert (pair.num_images, pair.only_candidate, pair.only_champion) == (30, 10, 0)


def test_champion_with_a_class_that_is_gone_gets_no_credit_for_it(walk, tmp_path):
    champion = evaluate(
        by_brightness((40, 120, 170, 230)),
        walk.shards,
        walk.split,
        tmp_path,
        SETTINGS,
        model_labels=("dark", "grey", "silver", "light"),
        with_train=False,
    )
    assert champion.labels == (*LABELS, "silver")
    assert sum(map(sum, champion.confusion)) == 30
    gone = champion.per_class[3]
    assert (gone.support, gone.precision, gone.recall, gone.f1) == (0, None, None, None)
    written = json.loads((tmp_path / "evaluation.json").read_text())["per_class"][3]
    assert written["recall"] is None and written["f1"] is None and written["recall_interval"] is None


def test_evaluate_refuses_a_model_with_another_number_of_classes(walk, tmp_path):
    with pytest.raises(StepError, match=r"shape \(7, 2\), expected shape \(7, 3\)"):
        evaluate(by_brightness((40, 210)), walk.shards, walk.split, tmp_path, SETTINGS)
    assert not (tmp_path / "evaluation.json").exists()


def test_evaluate_refuses_answers_that_are_no_probabilities(walk, tmp_path):
    def broken(images):
        return np.full((len(images), 3), np.nan, np.float32)

    with pytest.raises(StepError, match="are not probabilities"):
        evaluate(broken, walk.shards, walk.split, tmp_path, SETTINGS)


def test_compare_evaluations_refuses_other_images(walk, tmp_path):
    evaluate(by_brightness(), walk.shards, walk.split, tmp_path / "a", SETTINGS)
    (tmp_path / "b").mkdir()
    rows = pd.read_parquet(tmp_path / "a" / "predictions.parquet")
    rows.iloc[1:].to_parquet(tmp_path / "b" / "predictions.parquet")
    with pytest.raises(InputError, match="not about the same images"):
        compare_evaluations(tmp_path / "a", tmp_path / "b")


def test_images_reads_what_tensorflow_writes(walk, tmp_path):
    tf = pytest.importorskip("tensorflow")
    names = []
    for name in ("test-00000-of-00002.tfrecord", "test-00001-of-00002.tfrecord"):
        names.append(name)
        with tf.io.TFRecordWriter(str(tmp_path / name)) as writer:
            for number in range(3):
                feature = {
                    "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"%064x" % number])),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number * 100])),
                    "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[bytes(range(200)) * 9])),
                }
                writer.write(
                    tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
                )
    (tmp_path / "shards.json").write_bytes((walk.shards / "shards.json").read_bytes())
    found = list(read_images(tmp_path, "test"))
    assert [p.label for p in found] == [0, 100, 200] * 2
    assert found[0].image == bytes(range(200)) * 9 and found[1].id == "0" * 63 + "1"


@pytest.mark.parametrize("spoil", ["cut", "empty record", "noise", "flipped bit"])
def test_images_says_which_shard_is_broken(walk, tmp_path, spoil):
    for path in walk.shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "test-00001-of-00002.tfrecord"
    whole = victim.read_bytes()
    spoilt = {"cut": whole[:-9], "empty record": tfrecord([b""]), "noise": tfrecord([b"\xff" * 40])}
    spoilt["flipped bit"] = whole[:50] + bytes([whole[50] ^ 1]) + whole[51:]
    victim.write_bytes(spoilt[spoil])
    with pytest.raises(InputError, match=r"test-00001-of-00002\.tfrecord cannot be read"):
        list(read_images(tmp_path, "test"))


def test_images_refuses_a_part_that_is_not_there(walk):
    with pytest.raises(InputError, match=r"has no split 'live', only test, train, validation"):
        list(read_images(walk.shards, "live"))


def test_images_gives_only_what_is_asked_for(walk):
    one = next(read_images(walk.shards, "test"))
    assert [p.id for p in read_images(walk.shards, "test", {one.id})] == [one.id]
