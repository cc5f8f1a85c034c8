"""Figures of the gate's rules as people read them, each in its own unit."""

from __future__ import annotations

from pergola.components.artifacts.decision import Rule

NOTHING = "–"


def of_rule(rule: Rule, which: str) -> str:
    """The "value", "limit" or "interval" of a rule as text; a dash where it has none."""
    if which == "interval":
        if rule.interval is None:
            return NOTHING
        low, high = (_number(end, rule.unit) for end in rule.interval)
        return f"{low} to {high}{_suffix(rule.unit)}"
    value = rule.value if which == "value" else rule.limit
    return NOTHING if value is None else f"{_number(value, rule.unit)}{_suffix(rule.unit)}"


def verdict(rule: Rule) -> str:
    """In a word or a few."""
    if not rule.passed:
        return "failed"
    return "passed" if rule.sure else "passed, too few to be sure"


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f}"
    return f"{value:.2g}" if unit == "probability" else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _suffix(unit: str) -> str:
    return {"share": "%", "ms": " ms", "MB": " MB"}.get(unit, "")
