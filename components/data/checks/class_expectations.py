"""Check: classes that do not meet an expectation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pergola.components.artifacts.data import Finding
from pergola.components.data.checks.facts import CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings

if TYPE_CHECKING:
    import pandas as pd


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding per violated rule; of several rules with one name, the first, most severe one."""
    classes, rules = facts.classes, facts.rules.classes
    findings: dict[str, Finding] = {}
    for rule, outcome in zip(rules, facts.checker(rules).outcomes(classes), strict=True):
        if not rule.is_violated(outcome) or rule.check in findings:
            continue
        names = [f"{classes['label'][row]}: {classes['images'][row]}" for row in outcome.rows]
        message = rule.sentence(outcome, len(classes), names)
        if rule.check == "imbalance":
            message += _effect_of_class_weights(classes)
        findings[rule.check] = Finding(
            rule.check, rule.severity, len(outcome.rows) or len(classes), (), message
        )
    return CheckResult(tuple(findings.values()))


def _effect_of_class_weights(classes: pd.DataFrame) -> str:
    """What class weights do about it (components/training/input/training_data.py), in a sentence."""
    present = classes[classes["images"] > 0]
    if len(present) < 2:
        return ""
    images = present["images"].to_numpy()
    rare, common = present.iloc[int(images.argmin())], present.iloc[int(images.argmax())]
    return (
        f" Unless train.balance is off, an image of '{rare['label']}' counts "
        f"{common['images'] / rare['images']:.1f} times one of '{common['label']}' in training; "
        "see the effect in the report's recall of each class, with its interval."
    )
