"""Can this model be released? A list of rules, each with value, interval, limit, verdict and explanation.

A rule is a function of the inputs and the settings. It returns a Rule, or None if it does not apply. To add
one, write it in rules.py or resource_rules.py and add it to RULES.

A limit is compared with one end of the 95% interval, so that chance alone does not decide. Where a model must
be *shown* to be good (accuracy, the majority baseline), that is the worse end. Where a fault must be shown
(recall of a class, a gap, a loss to the champion), it is the better end; if such a rule passes although the
worse end is beyond the limit, there were too few images to be sure (`sure` is False).
"""

from __future__ import annotations

from collections.abc import Callable

from pergola.components.artifacts.decision import Decision, Rule
from pergola.components.evaluation.gate import resource_rules, rules
from pergola.components.evaluation.gate.settings import GateInputs as GateInputs
from pergola.components.evaluation.gate.settings import GateSettings as GateSettings

RULES: tuple[Callable[[GateInputs, GateSettings], Rule | None], ...] = (
    rules.accuracy_is_enough,
    rules.beats_baselines,
    rules.no_class_is_missed,
    rules.no_slice_is_missed,
    rules.generalises,
    rules.is_calibrated,
    rules.is_robust,
    rules.is_no_worse_than_champion,
    resource_rules.is_worth_its_cost,
    resource_rules.costs_no_more_than_champion,
    resource_rules.is_served_correctly,
    resource_rules.is_fast_enough,
    resource_rules.is_small_enough,
)


def decide(inputs: GateInputs, settings: GateSettings) -> Decision:
    """The decision by all rules: accepted if all of them pass.

    >>> decide(GateInputs(evaluation), GateSettings()).accepted                      # doctest: +SKIP
    False
    """
    results = tuple(result for apply in RULES if (result := apply(inputs, settings)) is not None)
    reasons = tuple(rule.message for rule in results if not rule.passed)
    return Decision(accepted=not reasons, rules=results, reasons=reasons, champion=inputs.champion)
