"""Check: whether the checks that read images have read all of them."""

from __future__ import annotations

from pergola.components.artifacts.data import INFO, Finding
from pergola.components.data.checks.facts import CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding when only a random sample of the images was read."""
    features = facts.features
    if features is None or len(features.ids) == features.num_usable:
        return CheckResult()
    message = (
        f"Label errors, outliers and shortcuts were looked for in {len(features.ids):,} of "
        f"{features.num_usable:,} images, drawn at random: validate.max_inspected sets how many."
    )
    return CheckResult((Finding("sampled", INFO, len(features.ids), (), message),))
