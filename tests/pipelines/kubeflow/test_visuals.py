import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from sklearn.metrics import roc_auc_score

from pergola.components.artifacts.data import Finding, ValidationReport
from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.artifacts.evaluation import Evaluation
from pergola.pipelines.kubeflow import visuals


def evaluation(labels=("a", "b")):
    size = len(labels)
    confusion = tuple(tuple(5 if i == j else 1 for j in range(size)) for i in range(size))
    return Evaluation(labels, 12, 0.8, 0.8, {"3": 1.0}, 0.4, 0.9, (), confusion)


def saved(folder, labels, truth, probabilities):
    evaluation(labels).save(folder)
    rows = {"label": [labels[i] for i in truth], "probabilities": np.asarray(probabilities).tolist()}
    parquet.write_table(pa.table(rows), folder / "predictions.parquet")
    return folder


def area(curve):
    false_rates, true_rates, _ = curve
    return np.trapezoid(true_rates, false_rates)


def test_roc_of_two_classes_has_sklearns_area(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    positive = np.clip(0.5 * truth + rng.uniform(0, 0.5, 400), 0, 1)
    folder = saved(tmp_path, ("no", "yes"), truth, np.stack([1 - positive, positive], axis=1))
    curve = visuals.roc(folder)
    assert area(curve) == pytest.approx(roc_auc_score(truth, positive), abs=0.01)
    assert len(curve[0]) <= visuals.MAX_POINTS
    json.dumps(curve, allow_nan=False)


def test_roc_of_more_classes_is_micro_averaged(tmp_path):
    rng = np.random.default_rng(1)
    truth, probabilities = rng.integers(0, 3, 90), rng.dirichlet((1, 1, 1), 90)
    curve = visuals.roc(saved(tmp_path, ("a", "b", "c"), truth, probabilities))
    assert area(curve) == pytest.approx(
        roc_auc_score(np.eye(3)[truth].ravel(), probabilities.ravel()), abs=0.02
    )


def test_roc_needs_images_of_both_kinds(tmp_path):
    assert visuals.roc(saved(tmp_path, ("a", "b"), [0, 0], [[0.9, 0.1], [0.8, 0.2]])) is None


def test_confusion_leaves_out_large_matrices():
    assert visuals.confusion(evaluation()) == (["a", "b"], [[5, 1], [1, 5]])
    assert visuals.confusion(evaluation(tuple(map(str, range(100))))) is None


def test_findings_begin_with_the_worst_and_keep_the_table_whole():
    found = (
        Finding("too_few", "info", 1, (), "few"),
        Finding("unreadable", "critical", 2, (), "a | b\nc"),
    )
    text = visuals.findings(ValidationReport(False, found, {"x": "unreadable"}, 9, {}))
    assert "cannot be used" in text and "9 images, 1 excluded" in text
    assert text.index("unreadable") < text.index("too_few") and "a \\| b c" in text


def test_verdict_shows_every_rule():
    rules = (
        Rule("accuracy", 0.5, 0.6, False, "Too low."),
        Rule("served", None, None, True, "Fine."),
    )
    decision = Decision(False, rules, ("Too low.",), 3)
    text = visuals.verdict(decision)
    assert "**Rejected**, compared with version 3" in text
    assert "| **failed** | accuracy | 50.0% | – | 60.0% | Too low. |" in text
    assert "**Accepted**" in visuals.verdict(replace(decision, accepted=True, outcome="accepted"))
