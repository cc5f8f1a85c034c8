"""Check: files that do not meet an expectation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from pergola.components.artifacts.data import Finding
from pergola.components.data.checks.facts import MAX_PATHS, CheckResult, Facts
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.expectations.rules import Expectation, Outcome
from pergola.components.data.manifest.index import texts

_MAX_REASONS = 5


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding per rule that more files fail than it tolerates."""
    findings = (
        _finding(rule, outcome, facts)
        for rule, outcome in zip(facts.rules.images, facts.outcomes, strict=True)
        if rule.is_violated(outcome)
    )
    return CheckResult(tuple(findings))


def _finding(rule: Expectation, outcome: Outcome, facts: Facts) -> Finding:
    rows, total = np.array(outcome.rows, np.int64), facts.manifest.num_rows
    paths = texts(facts.folder, "path", rows[:MAX_PATHS])
    message = rule.sentence(outcome, total, paths)
    if rule.column == "reason":
        message += _by_reason(texts(facts.folder, "reason", rows))
    return Finding(rule.check, rule.severity, len(rows) or total, tuple(paths), message)


def _by_reason(reasons: Iterable[str]) -> str:
    """How many files have each reason, most frequent first; numbers in them are left out."""
    counts = Counter(re.sub(r"\d[\d,. x]*", "… ", reason) for reason in reasons)
    listed = "; ".join(f"{count:,}: {reason}" for reason, count in counts.most_common(_MAX_REASONS))
    return f" Reasons: {listed}."
