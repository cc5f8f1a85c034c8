"""Classify, Regress, MultiInference."""

from tests.support.wire import CLASSIFY, REGRESS, Refusal

ROWS = [{"x": 2.0}, {"x": 3.0}]


def pairs(result):
    return [[(c.label, c.score) for c in row.classes] for row in result.classifications]


def test_classify_gives_labels_and_scores(target):
    answer = target.wire.classify("tf1", ROWS, signature_name="classify_x_to_y")
    assert pairs(answer.result) == [[("3.0", 3.0)], [("3.5", 3.5)]]
    assert answer.model_spec.signature_name == "classify_x_to_y" and answer.model_spec.version.value == 1


def test_classify_without_classes_leaves_labels_empty(target):
    answer = target.wire.classify("tf1", ROWS, signature_name="classify_scores")
    assert pairs(answer.result) == [[("", 3.0)], [("", 3.5)]]


def test_regress_gives_values(target):
    answer = target.wire.regress("tf1", ROWS, signature_name="regress_x_to_y")
    assert [r.value for r in answer.result.regressions] == [3.0, 3.5]


def test_context_is_in_every_example_and_gives_way_to_it(target):
    answer = target.wire.regress("tf1", [{}, {"x": 4.0}], {"x": 10.0}, signature_name="regress_x_to_y")
    assert [r.value for r in answer.result.regressions] == [7.0, 4.0]


def test_multi_inference_answers_tasks_in_order(target):
    tasks = [("tf1", "regress_x_to_y", REGRESS), ("tf1", "classify_x_to_y", CLASSIFY)]
    first, second = target.wire.infer(tasks, ROWS).results
    assert [r.value for r in first.regression_result.regressions] == [3.0, 3.5]
    assert pairs(second.classification_result) == [[("3.0", 3.0)], [("3.5", 3.5)]]
    assert (first.model_spec.version.value, second.model_spec.signature_name) == (1, "classify_x_to_y")


def test_unknown_signatures_are_refused(target):
    wire = target.wire
    text = "No signature was found with the name: q"
    assert wire.classify("tf1", ROWS, signature_name="q") == Refusal("INVALID_ARGUMENT", text)
    assert wire.regress("tf1", ROWS, signature_name="q") == Refusal("INVALID_ARGUMENT", text)
    assert wire.infer([("tf1", "q", REGRESS)], ROWS) == Refusal(
        "INVALID_ARGUMENT", "Requested signature not found in model graph: q"
    )


def test_tf2_signatures_whose_method_is_always_predict_are_served(target):
    wire = target.wire
    assert pairs(wire.classify("tf2", ROWS, signature_name="classify").result) == [
        [("3.0", 3.0)],
        [("3.5", 3.5)],
    ]
    answer = wire.regress("tf2", ROWS, signature_name="regress")
    assert [r.value for r in answer.result.regressions] == [3.0, 3.5]
    body = {"signature_name": "regress", "examples": ROWS}
    assert target.post("/v1/models/tf2:regress", body).json() == {"results": [3.0, 3.5]}


def test_multi_inference_runs_signatures_with_inputs_of_their_own(target):
    tasks = [("tf2", "regress", REGRESS), ("tf2", "classify", CLASSIFY)]
    first, second = target.wire.infer(tasks, ROWS).results
    assert [r.value for r in first.regression_result.regressions] == [3.0, 3.5]
    assert pairs(second.classification_result) == [[("3.0", 3.0)], [("3.5", 3.5)]]


def test_signatures_without_the_tensors_of_the_method_are_refused(target):
    assert target.wire.classify("tf1", ROWS) == Refusal(
        "FAILED_PRECONDITION", "No classification inputs found in SignatureDef: serving_default"
    )


def test_empty_examples_are_refused(target):
    refusal = Refusal("INVALID_ARGUMENT", "Input is empty.")
    assert target.wire.classify("tf1", [], signature_name="classify_x_to_y") == refusal
    assert target.wire.regress("tf1", [], signature_name="regress_x_to_y") == refusal
    assert target.wire.infer([("tf1", "regress_x_to_y", REGRESS)], []) == refusal


def test_multi_inference_refuses_tasks_that_do_not_fit_together(target):
    wire, task = target.wire, ("tf1", "regress_x_to_y", REGRESS)
    assert wire.infer([task, task], ROWS).text == "Duplicate evaluation of signature: regress_x_to_y"
    assert wire.infer([task, ("half", "", REGRESS)], ROWS).text == (
        "All ModelSpecs in a MultiInferenceRequest must access the same model name."
    )
    assert wire.infer([("tf1", "serving_default", "tensorflow/serving/predict")], ROWS) == Refusal(
        "UNIMPLEMENTED", "Unsupported signature method_name: tensorflow/serving/predict"
    )


def test_examples_without_the_feature_are_refused_by_the_parser(target):
    answer = target.wire.regress("tf1", [{"q": 1.0}], signature_name="regress_x_to_y")
    assert answer.code == "INVALID_ARGUMENT" and "x" in answer.text
