"""Check: images of one object in several splits of a given split."""

from __future__ import annotations

from pergola.components.artifacts.data import WARNING, Finding
from pergola.components.data.checks.facts import MAX_PATHS, CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding when the given split divides the images of an object."""
    series = facts.series
    if series is None or not series.split_paths:
        return CheckResult()
    paths = series.split_paths
    message = (
        f"{series.num_split:,} objects ('{series.column}') have images in several splits of the given split, "
        f"such as '{paths[0]}': results will look better than they are. Put each object into one split."
    )
    return CheckResult((Finding("object_split_leak", WARNING, len(paths), paths[:MAX_PATHS], message),))
