"""May this model ship? A short list of rules, each with value, interval, limit, verdict and one sentence.

A rule is a function of the facts and the settings; it gives a Rule, or None when it has nothing to
judge. To add one, write it in rules.py or budgets.py and put it in RULES. A limit is held against the end of
the 95% interval that chance cannot explain away, so that a verdict is no noise: where a good model must be
*shown* to be good (accuracy, the majority baseline) the interval's worse end counts; where a fault must be
shown (a class that is missed, a gap, a loss to the champion) its better end does. A rule of the second kind
that passes although the worse end is beyond the limit says that it had too little to judge by.
"""

from __future__ import annotations

from collections.abc import Callable

from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.evaluation.gate import resource_rules, rules
from pergola.components.evaluation.gate.settings import Facts as Facts
from pergola.components.evaluation.gate.settings import GateSettings as GateSettings

RULES: tuple[Callable[[Facts, GateSettings], Rule | None], ...] = (
    rules.accuracy_is_enough,
    rules.beats_baselines,
    rules.no_class_is_missed,
    rules.no_slice_is_missed,
    rules.learned_not_memorised,
    rules.confidence_is_earned,
    rules.stands_mild_changes,
    rules.keeps_up_with_champion,
    resource_rules.is_worth_its_cost,
    resource_rules.costs_no_more_than_champion,
    resource_rules.answers_when_served,
    resource_rules.answers_soon,
    resource_rules.is_small_enough,
)


def decide(facts: Facts, settings: GateSettings) -> Decision:
    """Apply every rule. Accepted when all pass.

    >>> decide(Facts(evaluation), GateSettings()).accepted                      # doctest: +SKIP
    False
    """
    found = tuple(rule for judge in RULES if (rule := judge(facts, settings)) is not None)
    reasons = tuple(rule.message for rule in found if not rule.passed)
    return Decision(accepted=not reasons, rules=found, reasons=reasons, champion=facts.champion)
