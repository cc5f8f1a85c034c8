"""Gate rules on evaluation scores. See gate.py for how a limit is compared with an interval."""

from __future__ import annotations

from pergola.components.artifacts.decision import Rule
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.evaluation.baselines import MAJORITY
from pergola.components.evaluation.gate.settings import GateInputs, GateSettings
from pergola.components.formatting import (
    count,
    percent,
    percent_interval,
    points,
    points_interval,
)
from pergola.components.stats.metrics import difference_interval, wilson_interval


def accuracy_is_enough(inputs: GateInputs, settings: GateSettings) -> Rule:
    """The whole interval of the accuracy lies above the limit."""
    model = inputs.candidate
    interval = _accuracy_interval(model)
    passed = interval[0] >= settings.min_accuracy
    message = (
        f"Test accuracy is {percent(model.accuracy)} (95% interval {percent_interval(interval)}, "
        f"{model.num_images} images); its lower end must be at least {percent(settings.min_accuracy)}."
    )
    if not passed and model.accuracy >= settings.min_accuracy:
        message += " The test split is too small to show this: add images."
    return Rule("accuracy", model.accuracy, settings.min_accuracy, passed, message, interval)


def beats_baselines(inputs: GateInputs, settings: GateSettings) -> Rule:
    """With 95% confidence better than the majority class, and not worse than any other baseline.

    A baseline that is as good as the model is not held against it, since some tasks are that easy. With
    `settings.beat_baselines` the model must be better than each of them.
    """
    model = inputs.candidate
    failed, hardest = [], None
    for base in model.baselines:
        lost = base.difference < 0 and base.p_value < settings.significance
        if lost or (_to_be_beaten(base.name, settings) and base.interval[0] <= 0):
            failed.append(base)
        hardest = base if hardest is None or base.accuracy > hardest.accuracy else hardest
    if hardest is None:
        return Rule("baseline", None, None, False, "The model was not compared with any baseline.")
    shown = failed[0] if failed else hardest
    must = "be better" if _to_be_beaten(shown.name, settings) else "not be worse"
    message = (
        f"The baseline '{shown.name}' has an accuracy of {percent(shown.accuracy)} on "
        f"{count(shown.num_images, 'image')}; the model differs by {points(shown.difference)} (95% interval "
        f"{points_interval(shown.interval)}) and must {must} with 95% confidence."
    )
    sure = all(base.interval[0] > 0 for base in model.baselines)
    return Rule("baseline", shown.difference, 0.0, not failed, message, shown.interval, sure=sure)


def no_class_is_missed(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """No class has a recall whose whole interval lies below the limit."""
    scored = [score for score in inputs.candidate.per_class if score.support]
    untested = [score for score in inputs.candidate.per_class if not score.support]
    if not settings.min_recall or not inputs.candidate.per_class:
        return None
    if not scored:
        message = "No class has a test image, so no recall is known."
        return Rule("class_recall", None, settings.min_recall, False, message)
    failed = [score for score in scored if _recall_interval(score)[1] < settings.min_recall]
    worst = min(scored, key=lambda score: (_recall_interval(score)[1], score.label))
    interval = _recall_interval(worst)
    message = (
        f"Class '{worst.label}' has the lowest recall: {percent(worst.recall)} of "
        f"{count(worst.support, 'image')} (95% interval {percent_interval(interval)}); its upper end must be "
        f"at least {percent(settings.min_recall)}."
    )
    if len(failed) > 1:
        message += f" {len(failed)} classes are below the limit: {_names(failed)}."
    sure = all(_recall_interval(score)[0] >= settings.min_recall for score in scored)
    if untested:
        message += f" Not tested, since without a test image: {_names(untested)}."
    if not failed and not sure:
        unsure = min(scored, key=lambda score: (_recall_interval(score)[0], score.label))
        message += f" Class '{unsure.label}' has too few test images ({unsure.support}) to be sure."
    return Rule("class_recall", worst.recall, settings.min_recall, not failed, message, interval,
                sure=sure and not untested)  # fmt: skip


def no_slice_is_missed(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """No slice of sufficient size has an accuracy below the limit with 95% confidence."""
    limit = settings.min_slice
    if not limit:
        return None
    if inputs.slices is None:
        message = "gate.min_slice needs results by slice: set evaluate.slices = true."
        return Rule("slice", None, limit, False, message)
    worst = inputs.slices.worst()
    if worst is None:
        message = "No slice has enough images to be tested (evaluate.slice_min_images)."
        return Rule("slice", None, limit, True, message, sure=False)
    message = (
        f"The worst slice is '{worst.column}: {worst.name}' with {percent(worst.accuracy)} of "
        f"{count(worst.num_images, 'image')} (95% interval {percent_interval(worst.interval)}); its upper "
        f"end must be at least {percent(limit)}."
    )
    passed, sure = worst.interval[1] >= limit, worst.interval[0] >= limit
    return Rule("slice", worst.accuracy, limit, passed, message, worst.interval, sure=sure)


def generalises(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The gap between train and test accuracy does not exceed the limit with 95% confidence."""
    model = inputs.candidate
    if model.train_accuracy is None or settings.max_gap >= 1:
        return None
    gap = model.train_accuracy - model.accuracy
    num_train = model.num_train or model.num_images
    interval = difference_interval(model.train_accuracy, num_train, model.accuracy, model.num_images)
    message = (
        f"Train accuracy {percent(model.train_accuracy)}, test accuracy {percent(model.accuracy)}: a gap "
        f"of {points(gap)} (95% interval {points_interval(interval)}); "
        f"its lower end must be at most {points(settings.max_gap)}."
    )
    passed, sure = interval[0] <= settings.max_gap, interval[1] <= settings.max_gap
    return Rule("gap", gap, settings.max_gap, passed, message, interval, sure=sure)


def is_calibrated(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The expected calibration error does not exceed the limit with 95% confidence."""
    error, limit = inputs.candidate.calibration_error, settings.max_calibration_error
    interval = inputs.candidate.intervals.get("calibration_error")
    if error is None or interval is None or limit >= 1:
        return None
    message = (
        f"The expected calibration error is {points(error)} (95% interval {points_interval(interval)}): the "
        "mean difference between confidence and accuracy. Its lower end must be at most "
        f"{points(limit)}."
    )
    return Rule(
        "calibration", error, limit, interval[0] <= limit, message, interval, sure=interval[1] <= limit
    )


def is_robust(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """No mild change of the images lowers accuracy by more than the limit with 95% confidence."""
    changes = inputs.candidate.robustness
    if not changes or settings.max_drop >= 1:
        return None
    worst = min(changes, key=lambda change: (change.interval[1], change.name))
    message = (
        f"The change '{worst.name}' has the largest effect of {len(changes)}: it changes accuracy by "
        f"{points(worst.difference)} on {count(worst.num_images, 'image')} (95% interval "
        f"{points_interval(worst.interval)}); its upper end must be at least {points(-settings.max_drop)}."
    )
    passed = worst.interval[1] >= -settings.max_drop
    sure = all(change.interval[0] >= -settings.max_drop for change in changes)
    return Rule(
        "robustness", worst.difference, -settings.max_drop, passed, message, worst.interval, sure=sure
    )


def _accuracy_interval(model: Evaluation) -> tuple[float, float]:
    return wilson_interval(model.accuracy * model.num_images, model.num_images)


def _recall_interval(score: ClassScore) -> tuple[float, float]:
    return score.recall_interval or wilson_interval((score.recall or 0.0) * score.support, score.support)


def _to_be_beaten(baseline: str, settings: GateSettings) -> bool:
    return baseline == MAJORITY or settings.beat_baselines


def _names(scores: list[ClassScore]) -> str:
    names = ", ".join(score.label for score in scores[:5])
    return names if len(scores) <= 5 else f"{names}, …"
