import dataclasses
import functools

import numpy as np
import pytest

from pergola.components.artifacts.evaluation import ClassScore, Paired
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.evaluation import baselines
from pergola.components.evaluation.calibration import calibration
from pergola.components.evaluation.cost_report import cost_report
from pergola.components.evaluation.evaluate import EvaluateSettings, summarise
from pergola.components.evaluation.gate import formatting
from pergola.components.evaluation.gate.gate import GateInputs, GateSettings, decide
from pergola.components.evaluation.scoring import Scores
from pergola.components.evaluation.slices import slice_scores
from pergola.components.stats.compare import compare
from pergola.components.stats.costs import Costs

SERVED = SmokeTest(ok=True, reason="", num_requests=8, max_difference=1e-6)


def as_sure(answers, classes, sure):
    """Probabilities of a model that is as sure of each answer."""
    sure = max(sure, 1 / classes + 0.01)
    others = (1 - sure) / (classes - 1)
    return np.where(np.eye(classes, dtype=bool)[answers], sure, others).astype(np.float32)


@functools.cache
def evaluation(accuracy, *, classes=9, n=262, train_accuracy=None, missed=None, sure=None):
    """A real evaluation of drawn answers; class `missed` is never found. As sure as it is right."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % classes
    wrong = rng.permutation(n)[: round(n * (1 - accuracy))]
    answers = labels.copy()
    answers[wrong] = (answers[wrong] + rng.integers(1, classes, len(wrong))) % classes
    if missed is not None:
        answers[labels == missed] = (missed + 1) % classes
    test = Scores(tuple(map(str, range(n))), labels, as_sure(answers, classes, sure or accuracy))
    calibrated = calibration(test.probabilities, test.labels)
    names = tuple(f"c{i}" for i in range(classes))
    found = summarise(test, None, names, EvaluateSettings(), calibrated)
    return dataclasses.replace(
        found,
        train_accuracy=train_accuracy,
        num_train=1200 if train_accuracy else 0,
        baselines=(baselines.majority(test.right, labels),),
    )


def failed(decision):
    return [rule.name for rule in decision.rules if not rule.passed]


def test_gate_accepts_a_good_model_on_the_leaves():
    decision = decide(GateInputs(evaluation(0.86, train_accuracy=0.99), SERVED), GateSettings())
    assert decision.accepted, decision.reasons
    assert decision.reasons == ()
    names = ["accuracy", "baseline", "class_recall", "gap", "calibration", "served"]
    assert [rule.name for rule in decision.rules] == names


def test_gate_accepts_a_good_model_on_the_digits():
    found = evaluation(0.975, classes=10, n=270, train_accuracy=1.0)
    assert decide(GateInputs(found, SERVED), GateSettings()).accepted


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_gate_rejects_a_random_model(classes):
    decision = decide(
        GateInputs(evaluation(1 / classes, classes=classes, train_accuracy=1 / classes), SERVED),
        GateSettings(),
    )
    assert {"accuracy", "baseline"} <= set(failed(decision))


def test_gate_rejects_a_model_that_misses_a_class():
    decision = decide(GateInputs(evaluation(0.95, missed=3), SERVED), GateSettings())
    assert failed(decision) == ["class_recall"]
    assert "'c3'" in decision.reasons[0]


def test_gate_does_not_judge_a_class_by_two_images():
    found = evaluation(1.0, classes=10, n=20, missed=3)
    assert "class_recall" not in failed(decide(GateInputs(found, SERVED), GateSettings()))


def test_gate_says_which_class_was_not_tested():
    found = evaluation(0.95)
    none = ClassScore("unseen", None, None, None, 0)
    rule = rule_of(
        decide(
            GateInputs(dataclasses.replace(found, per_class=(*found.per_class, none)), SERVED), GateSettings()
        ),
        "class_recall",
    )
    assert "without a test image: unseen." in rule.message
    assert rule.passed and formatting.verdict(rule) != "passed"
    nothing = decide(GateInputs(dataclasses.replace(found, per_class=(none,)), SERVED), GateSettings())
    assert "class_recall" in failed(nothing)


def test_gate_rejects_a_model_that_memorised():
    decision = decide(GateInputs(evaluation(0.75, train_accuracy=1.0), SERVED), GateSettings())
    assert failed(decision) == ["gap"]


def test_gate_says_that_a_test_part_is_too_small():
    decision = decide(GateInputs(evaluation(1.0, classes=2, n=4), SERVED), GateSettings())
    assert "accuracy" in failed(decision)
    assert "too small" in decision.reasons[0]


@pytest.mark.parametrize(
    "smoke_test",
    [
        None,
        SmokeTest(False, "the server died", 0, 0.0),
        SmokeTest(True, "", 8, 0.3),
        SmokeTest(True, "", 8, float("nan")),
    ],
    ids=["none", "broken", "other answers", "nan"],
)
def test_gate_rejects_what_cannot_be_served(smoke_test):
    assert failed(decide(GateInputs(evaluation(0.95), smoke_test), GateSettings())) == ["served"]


def answers_of(accuracy, n, rng):
    return rng.random(n) < accuracy


def retrained(champion, disagree, rng):
    """An unchanged model trained again: as good, but wrong elsewhere."""
    accuracy = champion.mean()
    redrawn = rng.random(len(champion)) < disagree
    return np.where(redrawn, rng.random(len(champion)) < accuracy, champion)


def verdict(champion, candidate, settings):
    pair = compare(candidate, champion)
    facts = GateInputs(evaluation(0.95), SERVED, comparison=pair, champion=4)
    return not failed(decide(facts, settings))


@pytest.mark.parametrize("n", [262, pytest.param(2000, marks=pytest.mark.slow)])
def test_gate_seldom_rejects_an_unchanged_model(n):
    rng = np.random.default_rng(n)
    rejected = 0
    for _ in range(200):
        champion = answers_of(0.93, n, rng)
        rejected += not verdict(champion, retrained(champion, 0.3, rng), GateSettings())
    assert rejected <= 10  # 5% of 200; the exact test stays below its level


def test_gate_seldom_promotes_a_worse_model_when_it_must_be_proven():
    rng = np.random.default_rng(1)
    promoted = 0
    for _ in range(200):
        base = rng.random(1000)
        champion, candidate = base < 0.93, base < 0.92
        promoted += verdict(champion, candidate, GateSettings(prove_not_worse=True))
    assert promoted <= 10


def test_gate_rejects_a_clear_loss_and_names_the_champion():
    champion, candidate = np.arange(300) < 290, np.arange(300) < 260
    decision = decide(
        GateInputs(evaluation(0.95), SERVED, comparison=compare(candidate, champion), champion=4),
        GateSettings(),
    )
    assert failed(decision) == ["champion"]
    assert "version 4" in decision.reasons[0]
    assert decision.champion == 4


def test_gate_forgives_a_sure_but_tiny_loss():
    champion, candidate = np.arange(20_000) < 19_000, np.arange(20_000) < 18_980
    assert compare(candidate, champion).p_value < 0.001
    assert verdict(champion, candidate, GateSettings())


def test_gate_rules_can_be_switched_off():
    settings = GateSettings(min_recall=0, max_gap=1, max_calibration_error=1)
    decision = decide(GateInputs(evaluation(0.75, train_accuracy=1.0, missed=2), SERVED), settings)
    assert {rule.name for rule in decision.rules} == {"accuracy", "baseline", "served"}


def test_gate_rejects_a_model_that_loses_to_a_baseline():
    worse = Paired("nearest_neighbour", 262, 0.97, -0.07, (-0.11, -0.04), 0.0001)
    found = evaluation(0.9)
    found = dataclasses.replace(found, baselines=(*found.baselines, worse))
    decision = decide(GateInputs(found, SERVED), GateSettings())
    assert failed(decision) == ["baseline"]
    assert "'nearest_neighbour' has an accuracy of 97.0%" in decision.reasons[0]


def test_gate_accepts_a_model_that_ties_with_a_baseline():
    tie = Paired("metadata", 262, 0.91, -0.01, (-0.05, 0.03), 0.6)
    found = evaluation(0.9)
    found = dataclasses.replace(found, baselines=(*found.baselines, tie))
    decision = decide(GateInputs(found, SERVED), GateSettings())
    (rule,) = (rule for rule in decision.rules if rule.name == "baseline")
    assert decision.accepted and not rule.sure
    strict = decide(GateInputs(found, SERVED), GateSettings(beat_baselines=True))
    assert failed(strict) == ["baseline"] and "and must be better with 95% confidence" in strict.reasons[0]
    beaten = dataclasses.replace(
        evaluation(0.9), baselines=(Paired("metadata", 262, 0.8, 0.1, (0.05, 0.15), 0.01),)
    )
    assert decide(GateInputs(beaten, SERVED), GateSettings(beat_baselines=True)).accepted


def test_gate_rejects_a_model_that_was_compared_with_nothing():
    found = dataclasses.replace(evaluation(0.9), baselines=())
    assert failed(decide(GateInputs(found, SERVED), GateSettings())) == ["baseline"]


@pytest.mark.parametrize(("high", "accepted"), [(-0.45, False), (-0.25, True)])
def test_gate_rejects_a_model_that_a_mild_change_breaks(high, accepted):
    change = Paired("blur", 200, 0.4, high - 0.08, (high - 0.16, high), 1e-9)
    fine = Paired("jpeg", 200, 0.9, 0.0, (-0.02, 0.02), 1.0)
    found = dataclasses.replace(evaluation(0.9), robustness=(fine, change))
    decision = decide(GateInputs(found, SERVED), GateSettings())
    assert decision.accepted == accepted
    assert next(r.message for r in decision.rules if r.name == "robustness").startswith("The change 'blur'")
    off = decide(GateInputs(found, SERVED), GateSettings(max_drop=1))
    assert "robustness" not in [rule.name for rule in off.rules]


def rule_of(decision, name):
    return next(rule for rule in decision.rules if rule.name == name)


def test_gate_rejects_a_model_that_is_surer_than_it_is_right():
    decision = decide(GateInputs(evaluation(0.75, sure=0.99), SERVED), GateSettings())
    assert failed(decision) == ["calibration"]
    assert "error is 24.2 points" in decision.reasons[0]


def test_gate_does_not_judge_confidence_by_few_images():
    decision = decide(GateInputs(evaluation(0.8, n=20, classes=2, sure=0.95), SERVED), GateSettings())
    rule = rule_of(decision, "calibration")
    assert rule.passed and not rule.sure and formatting.verdict(rule) == "passed, too few to be sure"
    assert rule_of(decide(GateInputs(evaluation(0.9, n=2000), SERVED), GateSettings()), "calibration").sure


def test_gate_rejects_a_slice_that_is_missed_where_it_is_asked_to():
    right = np.arange(300) % 10 > 0
    dark = np.arange(300) < 60
    right[:40] = False
    slices = slice_scores(
        right, {"light": np.where(dark, "dark", "day").tolist(), "few": [0] * 295 + [1] * 5}
    )
    facts = GateInputs(evaluation(0.9), SERVED, slices=slices)
    assert decide(facts, GateSettings()).accepted
    decision = decide(facts, GateSettings(min_slice=0.6))
    assert failed(decision) == ["slice"] and "'light: dark' with 30.0% of 60" in decision.reasons[0]
    assert decide(facts, GateSettings(min_slice=0.3)).accepted


def test_gate_does_not_pass_over_a_limit_that_it_cannot_hold():
    facts = GateInputs(evaluation(0.9), SERVED)
    assert failed(decide(facts, GateSettings(min_slice=0.5))) == ["slice"]
    assert failed(decide(facts, GateSettings(max_cost=10))) == ["expected_cost"]
    few = slice_scores(np.arange(20) > 3, {"light": ["dark", "day"] * 10})
    rule = rule_of(
        decide(GateInputs(evaluation(0.9), SERVED, slices=few), GateSettings(min_slice=0.5)), "slice"
    )
    assert rule.passed and not rule.sure


def spent(own, other=None, n=300, ask=0.3, heavy=1.0):
    """Costs of a model that is right in a share `own`, beside a champion; asking costs 0.3."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    matrix = ((0, heavy, heavy, ask), (1, 0, 1, ask), (1, 1, 0, ask))
    costs = Costs(("a", "b", "c"), ("a", "b", "c", "ask a person"), matrix)

    def answers(share):
        wrong = rng.permutation(n) >= round(n * share)
        return as_sure(np.where(wrong, (labels + 1) % 3, labels), 3, 0.95)

    return cost_report(answers(own), labels, costs, None if other is None else answers(other))


@pytest.mark.parametrize(
    ("own", "settings", "failing"),
    [
        (0.9, GateSettings(), []),
        (0.6, GateSettings(), ["expected_cost"]),  # asking always costs 300
        (0.9, GateSettings(max_cost=20), ["expected_cost"]),
        (0.9, GateSettings(max_cost=200), []),
    ],
)
def test_gate_wants_a_model_to_save_what_it_costs(own, settings, failing):
    decision = decide(GateInputs(evaluation(0.9), SERVED, costs=spent(own)), settings)
    assert failed(decision) == failing
    assert rule_of(decision, "expected_cost").unit == "cost"


def test_gate_rejects_a_model_that_is_dearer_than_the_champion():
    decision = decide(GateInputs(evaluation(0.9), SERVED, costs=spent(0.8, 0.95), champion=2), GateSettings())
    assert failed(decision) == ["champion_cost"] and "champion version 2" in decision.reasons[0]
    assert decide(GateInputs(evaluation(0.9), SERVED, costs=spent(0.9, 0.9)), GateSettings()).accepted


@pytest.mark.parametrize(
    ("smoke_test", "failing"),
    [
        (dataclasses.replace(SERVED, latency_ms=900.0, latency_interval_ms=(800.0, 1500.0)), []),
        (dataclasses.replace(SERVED, latency_ms=1500.0, latency_interval_ms=(1200.0, 2500.0)), ["latency"]),
        (dataclasses.replace(SERVED, num_bytes=499_000_000), []),
        (dataclasses.replace(SERVED, num_bytes=501_000_000), ["size"]),
    ],
)
def test_gate_holds_the_smoke_test_to_its_budgets(smoke_test, failing):
    decision = decide(GateInputs(evaluation(0.9), smoke_test), GateSettings())
    assert failed(decision) == failing
    off = decide(GateInputs(evaluation(0.9), smoke_test), GateSettings(max_latency_ms=0, max_size_mb=0))
    assert not {"latency", "size"} & {rule.name for rule in off.rules}


def test_rules_are_formatted_in_their_own_units():
    smoke_test = dataclasses.replace(
        SERVED, latency_ms=12.34, latency_interval_ms=(9.0, 20.0), num_bytes=2_500_000
    )
    decision = decide(GateInputs(evaluation(0.9), smoke_test, costs=spent(0.9)), GateSettings())
    texts = {rule.name: [formatting.of_rule(rule, which) for which in ("value", "interval", "limit")]
            for rule in decision.rules}  # fmt: skip
    assert texts["latency"] == ["12.3 ms", "9 ms to 20 ms", "1,000 ms"]
    assert texts["size"] == ["2.5 MB", "–", "500 MB"]
    assert texts["served"] == ["1e-06", "–", "0.01"]
    assert texts["accuracy"][::2] == ["90.1%", "60.0%"]
    assert texts["expected_cost"][2] == "300"


def test_decision_survives_a_file(tmp_path):
    decision = decide(GateInputs(evaluation(0.9), SERVED), GateSettings())
    decision.save(tmp_path)
    assert type(decision).load(tmp_path) == decision
