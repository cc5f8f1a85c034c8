"""Can this model be released? A list of rules, each with value, interval, limit, verdict and explanation.

A rule is a function of the inputs and the settings. It returns a Rule, or None if it does not apply. To add
one, write it in the module of its kind beside this one and add it to RULES.

A limit is compared with one end of the 95% interval, so that chance alone does not decide. Where a model must
be *shown* to be good (accuracy, the majority baseline), that is the worse end. Where a fault must be shown
(recall of a class, a gap, a loss to the champion), it is the better end; if such a rule passes although the
worse end is beyond the limit, there were too few images to be sure (`sure` is False). A rule on the champion
can also pass and yet hold the candidate: it is registered, and the champion stays.
"""

from __future__ import annotations

from collections.abc import Callable

from pergola.components.artifacts.decision import ACCEPTED, HELD, REJECTED, Decision, Rule
from pergola.components.evaluation.gate import champion_rules, data_rules, resource_rules, rules
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
    champion_rules.is_no_worse_than_champion,
    champion_rules.is_no_worse_than_anchor,
    champion_rules.keeps_the_contract,
    resource_rules.is_worth_its_cost,
    champion_rules.costs_no_more_than_champion,
    resource_rules.is_served_correctly,
    resource_rules.is_fast_enough,
    resource_rules.is_small_enough,
    data_rules.has_few_label_errors,
    data_rules.has_few_findings,
)


def decide(inputs: GateInputs, settings: GateSettings) -> Decision:
    """The decision by all rules: rejected if one fails, else held if one holds, else accepted.

    >>> decide(GateInputs(evaluation), GateSettings()).accepted                      # doctest: +SKIP
    False
    """
    results = tuple(result for apply in RULES if (result := apply(inputs, settings)) is not None)
    failed = tuple(rule.message for rule in results if not rule.passed)
    holding = tuple(rule.message for rule in results if rule.holds)
    outcome = REJECTED if failed else HELD if holding else ACCEPTED
    return Decision(
        accepted=outcome == ACCEPTED,
        rules=results,
        reasons=failed or holding,
        champion=inputs.champion,
        outcome=outcome,
        anchor=champion_rules.next_anchor(inputs, settings, outcome),
        warnings=tuple(
            f"{data_rules.name_of(found)}: {found.message}" for found in data_rules.open_warnings(inputs)
        ),
    )
