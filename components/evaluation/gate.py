"""May this model ship? A short list of rules, each with value, limit, verdict and one sentence.

A rule is a function of the facts and the settings; it gives a Rule, or None when it has nothing to
judge. To add one, write it and put it in RULES. A limit is held against the end of the 95% interval
that chance cannot explain away, so that a verdict is no noise: where a good model must be *shown* to
be good (accuracy, baseline) the interval's worse end counts; where a fault must be shown (a class that
is missed, a gap, a loss to the champion) its better end does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.artifacts import ClassScore, Decision, Evaluation, Rehearsal, Rule
from components.evaluation.baselines import MAJORITY
from components.evaluation.compare import Comparison
from components.evaluation.metrics import difference_interval, wilson_interval
from components.records import setting


@dataclass(frozen=True)
class GateSettings:
    """When a model may ship."""

    min_accuracy: float = setting(
        0.6, "lower end of the 95% interval of the test accuracy must reach this", low=0, high=1
    )
    min_recall: float = setting(
        0.3, "no class may surely be found less often than this (0: no such rule)", low=0, high=1
    )
    max_gap: float = setting(
        0.15, "train accuracy may surely exceed test accuracy by no more (1: no such rule)", low=0, high=1
    )
    max_drop: float = setting(
        0.3, "accuracy that a mild change of the pictures may surely cost (1: no such rule)", low=0, high=1
    )
    max_loss: float = setting(
        0.01, "test accuracy that may be lost to the champion, on the same pictures", low=0, high=1
    )
    prove_not_worse: bool = setting(
        False, "true: the loss must surely be within max_loss; false: a loss by chance is forgiven"
    )
    significance: float = setting(
        0.05, "how surprising a loss to the champion must be to count (McNemar)", low=0.0001, high=0.5
    )
    max_difference: float = setting(
        0.01, "how far a served probability may be from the evaluated one", low=0, high=1
    )


@dataclass(frozen=True)
class Facts:
    """All that the rules may look at."""

    candidate: Evaluation
    rehearsal: Rehearsal | None = None  # None: not rehearsed, which no model ships without
    comparison: Comparison | None = None  # None: there is no champion
    champion: int | None = None  # its version


def decide(facts: Facts, settings: GateSettings) -> Decision:
    """Apply every rule. Accepted when all pass.

    >>> decide(Facts(evaluation), GateSettings()).accepted                      # doctest: +SKIP
    False
    """
    rules = tuple(rule for judge in RULES if (rule := judge(facts, settings)) is not None)
    reasons = tuple(rule.message for rule in rules if not rule.passed)
    return Decision(accepted=not reasons, rules=rules, reasons=reasons, champion=facts.champion)


def accuracy_is_enough(facts: Facts, settings: GateSettings) -> Rule:
    """The accuracy's interval lies above the limit."""
    model = facts.candidate
    interval = _accuracy_interval(model)
    passed = interval[0] >= settings.min_accuracy
    message = (
        f"Test accuracy is {_percent(model.accuracy)} (95% interval {_span(interval)}, "
        f"{model.num_images} pictures); its lower end must reach {_percent(settings.min_accuracy)}."
    )
    if not passed and model.accuracy >= settings.min_accuracy:
        message += " The test part is too small to show it: add pictures."
    return Rule("accuracy", model.accuracy, settings.min_accuracy, passed, message, interval)


def beats_baselines(facts: Facts, settings: GateSettings) -> Rule:
    """Surely better than the most frequent class, and not surely worse than what looks without learning.

    A baseline as good as the model is no fault of the model: some tasks are that easy.
    """
    model = facts.candidate
    failed, hardest = [], None
    for base in model.baselines:
        lost = base.difference < 0 and base.p_value < settings.significance
        if lost or (base.name == MAJORITY and base.interval[0] <= 0):
            failed.append(base)
        hardest = base if hardest is None or base.accuracy > hardest.accuracy else hardest
    if hardest is None:
        return Rule("baseline", None, None, False, "The model was compared with no baseline.")
    shown = failed[0] if failed else hardest
    message = (
        f"The baseline '{shown.name}' is right in {_percent(shown.accuracy)} of {shown.num_images} pictures; "
        f"the model differs by {_points(shown.difference)} (95% interval {_points(shown.interval[0])} to "
        f"{_points(shown.interval[1])}) and must {_must(shown.name)}."
    )
    return Rule("baseline", shown.difference, 0.0, not failed, message, shown.interval)


def no_class_is_missed(facts: Facts, settings: GateSettings) -> Rule | None:
    """No class has a recall whose whole interval lies below the floor."""
    judged = [score for score in facts.candidate.per_class if score.support]
    if not settings.min_recall or not judged:
        return None
    failed = [score for score in judged if _recall_interval(score)[1] < settings.min_recall]
    worst = min(judged, key=lambda score: (_recall_interval(score)[1], score.label))
    interval = _recall_interval(worst)
    message = (
        f"Class '{worst.label}' is found least: {_percent(worst.recall)} of {worst.support} pictures "
        f"(95% interval {_span(interval)}); its upper end must reach {_percent(settings.min_recall)}."
    )
    if len(failed) > 1:
        message += f" So it is with {len(failed)} classes: {_names(failed)}."
    return Rule("class_recall", worst.recall, settings.min_recall, not failed, message, interval)


def learned_not_memorised(facts: Facts, settings: GateSettings) -> Rule | None:
    """The gap between train and test accuracy is not surely above the limit."""
    model = facts.candidate
    if model.train_accuracy is None or settings.max_gap >= 1:
        return None
    gap = model.train_accuracy - model.accuracy
    num_train = model.num_train or model.num_images
    interval = difference_interval(model.train_accuracy, num_train, model.accuracy, model.num_images)
    message = (
        f"Train accuracy {_percent(model.train_accuracy)}, test accuracy {_percent(model.accuracy)}: a gap "
        f"of {_points(gap)} (95% interval {_points(interval[0])} to {_points(interval[1])}); "
        f"its lower end must be at most {_points(settings.max_gap)}."
    )
    return Rule("gap", gap, settings.max_gap, interval[0] <= settings.max_gap, message, interval)


def stands_mild_changes(facts: Facts, settings: GateSettings) -> Rule | None:
    """No mild change of the pictures surely costs more accuracy than the limit."""
    changes = facts.candidate.robustness
    if not changes or settings.max_drop >= 1:
        return None
    worst = min(changes, key=lambda change: (change.interval[1], change.name))
    message = (
        f"The change '{worst.name}' moves accuracy by {_points(worst.difference)} on {worst.num_images} "
        f"pictures (95% interval {_points(worst.interval[0])} to {_points(worst.interval[1])}), the worst of "
        f"{len(changes)} changes; its upper end must reach {_points(-settings.max_drop)}."
    )
    passed = worst.interval[1] >= -settings.max_drop
    return Rule("robustness", worst.difference, -settings.max_drop, passed, message, worst.interval)


def keeps_up_with_champion(facts: Facts, settings: GateSettings) -> Rule | None:
    """Not worse than the champion on the same pictures, beyond chance and the margin."""
    pair = facts.comparison
    if pair is None:
        return None
    within = pair.interval[0] >= -settings.max_loss
    worse = pair.difference < 0 and pair.p_value < settings.significance
    passed = within if settings.prove_not_worse else within or not worse
    message = (
        f"Against champion {_version(facts.champion)} on the same {pair.num_images} pictures accuracy "
        f"differs by {_points(pair.difference)} (95% interval {_points(pair.interval[0])} to "
        f"{_points(pair.interval[1])}, p = {pair.p_value:.3g}); {_champion_limit(settings)}."
    )
    return Rule("champion", pair.difference, -settings.max_loss, passed, message, pair.interval)


def answers_when_served(facts: Facts, settings: GateSettings) -> Rule:
    """A real server loaded the model and gave the golden answers."""
    rehearsal = facts.rehearsal
    limit = settings.max_difference
    if rehearsal is None:
        return Rule("served", None, limit, False, "The model was not rehearsed in a real server.")
    if not rehearsal.ok:
        message = f"The model failed its rehearsal in a real server: {rehearsal.reason}"
        return Rule("served", rehearsal.max_difference, limit, False, message)
    message = (
        f"A real server answered {rehearsal.num_requests} golden requests with probabilities at most "
        f"{rehearsal.max_difference:.2g} away; allowed is {limit:g}."
    )
    return Rule("served", rehearsal.max_difference, limit, 0 <= rehearsal.max_difference <= limit, message)


RULES: tuple[Callable[[Facts, GateSettings], Rule | None], ...] = (
    accuracy_is_enough,
    beats_baselines,
    no_class_is_missed,
    learned_not_memorised,
    stands_mild_changes,
    keeps_up_with_champion,
    answers_when_served,
)


def _accuracy_interval(model: Evaluation) -> tuple[float, float]:
    return wilson_interval(model.accuracy * model.num_images, model.num_images)


def _recall_interval(score: ClassScore) -> tuple[float, float]:
    return score.recall_interval or wilson_interval(score.recall * score.support, score.support)


def _champion_limit(settings: GateSettings) -> str:
    margin = _points(settings.max_loss)
    if settings.prove_not_worse:
        return f"a loss above {margin} must be ruled out"
    return f"a loss counts when it is no chance (p < {settings.significance:g}) and may exceed {margin}"


def _must(baseline: str) -> str:
    return "surely be better" if baseline == MAJORITY else "not surely be worse"


def _version(version: int | None) -> str:
    return "" if version is None else f"version {version}"


def _names(scores: list[ClassScore]) -> str:
    names = ", ".join(score.label for score in scores[:5])
    return names if len(scores) <= 5 else f"{names}, …"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points" if share < 0 else f"{100 * share:.1f} points"


def _span(interval: tuple[float, float]) -> str:
    return f"{_percent(interval[0])} to {_percent(interval[1])}"
