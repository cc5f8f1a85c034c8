"""Values, intervals and limits of the gate's rules as text, in each rule's unit."""

from __future__ import annotations

from collections.abc import Callable

from pergola.components import formatting
from pergola.components.artifacts.decision import Rule

_FORMATS: dict[str, Callable[[float], str]] = {
    "share": formatting.percent,
    "probability": formatting.probability,
    "ms": formatting.milliseconds,
    "count": lambda value: f"{value:,.0f}",
    "MB": lambda value: f"{formatting.number(value)} MB",
}


def of_rule(rule: Rule, which: str) -> str:
    """The "value", "limit" or "interval" of a rule as text; a dash if it has none."""
    text = _FORMATS.get(rule.unit, formatting.number)
    if which == "interval":
        return formatting.MISSING if rule.interval is None else " to ".join(map(text, rule.interval))
    value = rule.value if which == "value" else rule.limit
    return formatting.MISSING if value is None else text(value)


def verdict(rule: Rule) -> str:
    """Whether a rule passed, in a few words."""
    if not rule.passed:
        return "failed"
    if rule.holds:
        return "held: the champion stays"
    if rule.value is None:
        return "not tested"
    return "passed" if rule.sure else "passed, too few to be sure"
