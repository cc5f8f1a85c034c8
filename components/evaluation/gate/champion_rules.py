"""Gate rules on the champion and the anchor: which candidate replaces a model that is in use.

The anchor is an earlier champion that no candidate may fall behind: the first one, or the last that was shown
to be better than the anchor before it. Many small losses, each too small to be noticed beside the champion of
the day, add up beside the anchor.
"""

from __future__ import annotations

from pergola.components.artifacts.decision import ACCEPTED, HELD, REJECTED, Rule
from pergola.components.evaluation.gate.settings import UNDECIDED, GateInputs, GateSettings
from pergola.components.formatting import count, number, number_interval, points, points_interval, probability
from pergola.components.stats.compare import Comparison, images_to_decide

EQUAL = 1e-6  # mean log losses that differ by less are the same model's
BY_HAND = "`pergola promote` with the number of this version makes it the champion all the same."


def outcome_of(pair: Comparison, settings: GateSettings, *, allowed: float = 0.0, finer: float = 0.0) -> str:
    """What a comparison with the champion or the anchor says: accepted, held or rejected.

    allowed: loss of accuracy, by the estimate, that still counts as none.  finer: log loss of the other model
    minus the candidate's, which decides where both are equally accurate.
    """
    if pair.interval[0] >= -settings.max_loss:
        return ACCEPTED
    if settings.prove_not_worse or is_worse(pair, settings):
        return REJECTED
    if settings.promote == UNDECIDED:
        return ACCEPTED
    tied = pair.difference == 0
    return ACCEPTED if (finer >= -EQUAL if tied else pair.difference >= -allowed) else HELD


def is_worse(pair: Comparison, settings: GateSettings) -> bool:
    """Whether the candidate's loss is significant."""
    return pair.difference < 0 and pair.p_value < settings.significance


def is_better(pair: Comparison, settings: GateSettings) -> bool:
    """Whether the candidate's lead is significant."""
    return pair.difference > 0 and pair.p_value < settings.significance


def is_no_worse_than_champion(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """At least as good as the champion on the same images, or shown to lose no more than the margin."""
    pair = inputs.comparison
    if pair is None:
        return None
    finer = 0.0
    if inputs.champion_log_loss is not None:
        finer = inputs.champion_log_loss - inputs.candidate.log_loss
    outcome = outcome_of(pair, settings, finer=finer)
    message = (
        f"Compared with champion {_version(inputs.champion)} on the same {count(pair.num_images, 'image')}, "
        f"accuracy differs by {points(pair.difference)} (95% interval {points_interval(pair.interval)}, "
        f"p = {probability(pair.p_value)}); {_champion_limit(settings)}."
    )
    if outcome == HELD:
        message += _why_held(pair, settings, finer)
    return _rule("champion", pair, -settings.max_loss, outcome, message, settings)


def is_no_worse_than_anchor(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """By the estimate no more than the margin behind the anchor."""
    pair, limit = inputs.anchor_comparison, -settings.max_loss
    if inputs.anchor is None or settings.promote == UNDECIDED or settings.max_loss >= 1:
        return None
    if pair is None:
        message = (
            f"Version {inputs.anchor} is the anchor that guards against many small losses, but none of its "
            "answers to these test images are stored, so the candidate is compared with the champion alone."
        )
        return Rule("anchor", None, limit, True, message, sure=False)
    outcome = outcome_of(pair, settings, allowed=settings.max_loss)
    message = (
        f"Compared with version {inputs.anchor}, the anchor that guards against many small losses, on the "
        f"{count(pair.num_images, 'image')} that both answered, accuracy differs by "
        f"{points(pair.difference)} (95% interval {points_interval(pair.interval)}); a loss above "
        f"{points(settings.max_loss)} holds the candidate, a significant one rejects it."
    )
    if outcome == HELD:
        message += f" The champion stays. {BY_HAND}"
    return _rule("anchor", pair, limit, outcome, message, settings)


def costs_no_more_than_champion(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The champion's decisions are not cheaper on the same images."""
    report = inputs.costs
    if report is None or report.saving_over_champion is None or report.saving_over_champion_p is None:
        return None
    saved, interval = report.saving_over_champion, report.saving_over_champion_interval or (0.0, 0.0)
    passed = saved >= 0 or report.saving_over_champion_p >= settings.significance
    version = "" if inputs.champion is None else f" version {inputs.champion}"
    message = (
        f"1,000 decisions cost {number(abs(saved))} {'less' if saved >= 0 else 'more'} than those of champion"
        f"{version} on the same {count(report.num_images, 'image')} (95% interval of the saving "
        f"{number_interval(interval)}, p = {probability(report.saving_over_champion_p)}); a loss counts if "
        f"it is significant (p < {settings.significance:g})."
    )
    holds = passed and saved < 0 and settings.promote != UNDECIDED
    if holds:
        message += f" They cost more by the estimate, so the champion stays. {BY_HAND}"
    return Rule("champion_cost", saved, 0.0, passed, message, interval, "cost", interval[0] >= 0, holds)


def keeps_the_contract(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """Nothing that callers of the champion depend on is gone or another."""
    found = inputs.contract
    if found is None:
        return None
    champion = f"champion {_version(inputs.champion)}".strip()
    passed = not found.broken or inputs.allow_contract_changes
    if found.broken:
        message = f"Callers of {champion} may depend on what this model changes: {'; '.join(found.broken)}. "
        message += (
            "release.allow_contract_changes allows it."
            if passed
            else "Check that no data is missing; if the change is meant, set release.allow_contract_changes."
        )
    else:
        message = f"Classes and signatures of {champion} are all there."
    if found.added:
        message += f" Added: {'; '.join(found.added)}."
    return Rule("contract", len(found.broken), 0, passed, message, unit="count", sure=not found.broken)


def next_anchor(inputs: GateInputs, settings: GateSettings, outcome: str) -> int | None:
    """The version that candidates after this one must not fall behind; None: this one.

    A held candidate that a person promotes is what this person wants, so it is an anchor of its own.
    """
    if outcome != ACCEPTED or inputs.champion is None:
        return None
    pair = inputs.comparison if inputs.anchor is None else inputs.anchor_comparison
    if pair is not None and is_better(pair, settings):
        return None
    return inputs.champion if pair is None or inputs.anchor is None else inputs.anchor


def _rule(
    name: str, pair: Comparison, limit: float, outcome: str, message: str, settings: GateSettings
) -> Rule:
    sure = pair.interval[0] >= -settings.max_loss
    return Rule(name, pair.difference, limit, outcome != REJECTED, message, pair.interval, sure=sure,
                holds=outcome == HELD)  # fmt: skip


def _why_held(pair: Comparison, settings: GateSettings, finer: float) -> str:
    more = _rounded(images_to_decide(pair, settings.max_loss) - pair.num_images)
    worse = f"its log loss is higher by {number(-finer)}" if pair.difference == 0 else "it is less accurate"
    return (
        f" On these images {worse}, and they are too few to tell whether that is chance: about "
        f"{count(more, 'more test image')} would. The champion stays. {BY_HAND}"
    )


def _rounded(images: int) -> int:
    """To two digits, and at least 1."""
    return max(1, int(float(f"{images:.2g}")))


def _champion_limit(settings: GateSettings) -> str:
    margin = points(settings.max_loss)
    if settings.prove_not_worse:
        return f"a loss above {margin} must be ruled out"
    return f"a loss counts if it is significant (p < {settings.significance:g}) and may exceed {margin}"


def _version(version: int | None) -> str:
    return "" if version is None else f"version {version}"
