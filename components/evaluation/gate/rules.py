"""Rules of the gate on what a model scored. See gate.py for how a limit is held against an interval."""

from __future__ import annotations

from pergola.components.artifacts.decision import Rule
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.evaluation.baselines import MAJORITY
from pergola.components.evaluation.gate.settings import Facts, GateSettings
from pergola.components.stats.metrics import difference_interval, wilson_interval


def accuracy_is_enough(facts: Facts, settings: GateSettings) -> Rule:
    """The accuracy's interval lies above the limit."""
    model = facts.candidate
    interval = _accuracy_interval(model)
    passed = interval[0] >= settings.min_accuracy
    message = (
        f"Test accuracy is {_percent(model.accuracy)} (95% interval {_span(interval)}, "
        f"{model.num_images} images); its lower end must reach {_percent(settings.min_accuracy)}."
    )
    if not passed and model.accuracy >= settings.min_accuracy:
        message += " The test part is too small to show it: add images."
    return Rule("accuracy", model.accuracy, settings.min_accuracy, passed, message, interval)


def beats_baselines(facts: Facts, settings: GateSettings) -> Rule:
    """Surely better than the most frequent class, and not surely worse than what looks without learning.

    A baseline as good as the model is no fault of the model: some tasks are that easy. With
    `settings.beat_baselines` it must surely be better than each.
    """
    model = facts.candidate
    failed, hardest = [], None
    for base in model.baselines:
        lost = base.difference < 0 and base.p_value < settings.significance
        if lost or (_to_be_beaten(base.name, settings) and base.interval[0] <= 0):
            failed.append(base)
        hardest = base if hardest is None or base.accuracy > hardest.accuracy else hardest
    if hardest is None:
        return Rule("baseline", None, None, False, "The model was compared with no baseline.")
    shown = failed[0] if failed else hardest
    message = (
        f"The baseline '{shown.name}' is right in {_percent(shown.accuracy)} of {shown.num_images} images; "
        f"the model differs by {_points(shown.difference)} (95% interval {_points(shown.interval[0])} to "
        f"{_points(shown.interval[1])}) and must "
        f"{'surely be better' if _to_be_beaten(shown.name, settings) else 'not surely be worse'}."
    )
    sure = all(base.interval[0] > 0 for base in model.baselines)
    return Rule("baseline", shown.difference, 0.0, not failed, message, shown.interval, sure=sure)


def no_class_is_missed(facts: Facts, settings: GateSettings) -> Rule | None:
    """No class has a recall whose whole interval lies below the floor."""
    judged = [score for score in facts.candidate.per_class if score.support]
    if not settings.min_recall or not judged:
        return None
    failed = [score for score in judged if _recall_interval(score)[1] < settings.min_recall]
    worst = min(judged, key=lambda score: (_recall_interval(score)[1], score.label))
    interval = _recall_interval(worst)
    message = (
        f"Class '{worst.label}' is found least: {_percent(worst.recall)} of {worst.support} images "
        f"(95% interval {_span(interval)}); its upper end must reach {_percent(settings.min_recall)}."
    )
    if len(failed) > 1:
        message += f" So it is with {len(failed)} classes: {_names(failed)}."
    sure = all(_recall_interval(score)[0] >= settings.min_recall for score in judged)
    if not failed and not sure:
        unsure = min(judged, key=lambda score: (_recall_interval(score)[0], score.label))
        message += f" Class '{unsure.label}' has too few images ({unsure.support}) to be sure."
    return Rule("class_recall", worst.recall, settings.min_recall, not failed, message, interval, sure=sure)


def no_slice_is_missed(facts: Facts, settings: GateSettings) -> Rule | None:
    """No slice that is large enough to judge has an accuracy that is surely below the floor."""
    limit = settings.min_slice
    if not limit:
        return None
    if facts.slices is None:
        message = "There are no results by slice to hold gate.min_slice against: set evaluate.slices = true."
        return Rule("slice", None, limit, False, message)
    worst = facts.slices.worst()
    if worst is None:
        message = "No slice has enough images to be judged (evaluate.slice_min_images)."
        return Rule("slice", None, limit, True, message, sure=False)
    message = (
        f"The worst slice is '{worst.column}: {worst.name}' with {_percent(worst.accuracy)} of "
        f"{worst.num_images} images (95% interval {_span(worst.interval)}); its upper end must reach "
        f"{_percent(limit)}."
    )
    passed, sure = worst.interval[1] >= limit, worst.interval[0] >= limit
    return Rule("slice", worst.accuracy, limit, passed, message, worst.interval, sure=sure)


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
    passed, sure = interval[0] <= settings.max_gap, interval[1] <= settings.max_gap
    return Rule("gap", gap, settings.max_gap, passed, message, interval, sure=sure)


def confidence_is_earned(facts: Facts, settings: GateSettings) -> Rule | None:
    """The expected calibration error is not surely above the limit."""
    error, limit = facts.candidate.calibration_error, settings.max_calibration_error
    interval = facts.candidate.intervals.get("calibration_error")
    if error is None or interval is None or limit >= 1:
        return None
    message = (
        f"Confidence is {_points(error)} from accuracy on average, the expected calibration error (95% "
        f"interval {_points(interval[0])} to {_points(interval[1])}); its lower end must be at most "
        f"{_points(limit)}."
    )
    return Rule(
        "calibration", error, limit, interval[0] <= limit, message, interval, sure=interval[1] <= limit
    )


def stands_mild_changes(facts: Facts, settings: GateSettings) -> Rule | None:
    """No mild change of the images surely costs more accuracy than the limit."""
    changes = facts.candidate.robustness
    if not changes or settings.max_drop >= 1:
        return None
    worst = min(changes, key=lambda change: (change.interval[1], change.name))
    message = (
        f"The change '{worst.name}' moves accuracy by {_points(worst.difference)} on {worst.num_images} "
        f"images (95% interval {_points(worst.interval[0])} to {_points(worst.interval[1])}), the worst of "
        f"{len(changes)} changes; its upper end must reach {_points(-settings.max_drop)}."
    )
    passed = worst.interval[1] >= -settings.max_drop
    sure = all(change.interval[0] >= -settings.max_drop for change in changes)
    return Rule(
        "robustness", worst.difference, -settings.max_drop, passed, message, worst.interval, sure=sure
    )


def keeps_up_with_champion(facts: Facts, settings: GateSettings) -> Rule | None:
    """Not worse than the champion on the same images, beyond chance and the margin."""
    pair = facts.comparison
    if pair is None:
        return None
    within = pair.interval[0] >= -settings.max_loss
    worse = pair.difference < 0 and pair.p_value < settings.significance
    passed = within if settings.prove_not_worse else within or not worse
    message = (
        f"Against champion {_version(facts.champion)} on the same {pair.num_images} images accuracy "
        f"differs by {_points(pair.difference)} (95% interval {_points(pair.interval[0])} to "
        f"{_points(pair.interval[1])}, p = {pair.p_value:.3g}); {_champion_limit(settings)}."
    )
    return Rule("champion", pair.difference, -settings.max_loss, passed, message, pair.interval, sure=within)


def _accuracy_interval(model: Evaluation) -> tuple[float, float]:
    return wilson_interval(model.accuracy * model.num_images, model.num_images)


def _recall_interval(score: ClassScore) -> tuple[float, float]:
    return score.recall_interval or wilson_interval(score.recall * score.support, score.support)


def _champion_limit(settings: GateSettings) -> str:
    margin = _points(settings.max_loss)
    if settings.prove_not_worse:
        return f"a loss above {margin} must be ruled out"
    return f"a loss counts when it is no chance (p < {settings.significance:g}) and may exceed {margin}"


def _to_be_beaten(baseline: str, settings: GateSettings) -> bool:
    return baseline == MAJORITY or settings.beat_baselines


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
