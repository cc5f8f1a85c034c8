"""Rules of the gate on what a model costs and on how it is served. See gate.py."""

from __future__ import annotations

from pergola.components.artifacts.decision import Rule
from pergola.components.evaluation.gate.settings import Facts, GateSettings

MB = 1e6


def is_worth_its_cost(facts: Facts, settings: GateSettings) -> Rule | None:
    """Deciding by the model costs less than the best constant answer, and not surely more than the limit."""
    report = facts.costs
    if report is None and settings.max_cost:
        message = "Nobody said what errors cost, so gate.max_cost cannot be held: set export.costs."
        return Rule("expected_cost", None, settings.max_cost, False, message, unit="cost")
    if report is None:
        return None
    own, _, constant = report.spendings[:3]
    limit = min(constant.per_thousand, settings.max_cost or constant.per_thousand)
    saves, within = report.saving > 0, not settings.max_cost or own.interval[0] <= settings.max_cost
    message = (
        f"1,000 images cost {own.per_thousand:.4g} (95% interval {_span(own.interval)}, "
        f"{report.num_images} images); {constant.name} would cost {constant.per_thousand:.4g}, so the "
        f"model saves {report.saving:.4g} (95% interval {_span(report.saving_interval)}) and must save "
        "something"
    )
    message += f"; at most {settings.max_cost:g} are allowed." if settings.max_cost else "."
    sure = report.saving_interval[0] > 0 and not 0 < settings.max_cost < own.interval[1]
    return Rule(
        "expected_cost", own.per_thousand, limit, saves and within, message, own.interval, "cost", sure
    )


def costs_no_more_than_champion(facts: Facts, settings: GateSettings) -> Rule | None:
    """Deciding by the champion is not cheaper beyond chance, on the same images."""
    report = facts.costs
    if report is None or report.saving_over_champion is None or report.saving_over_champion_p is None:
        return None
    saved, interval = report.saving_over_champion, report.saving_over_champion_interval or (0.0, 0.0)
    passed = saved >= 0 or report.saving_over_champion_p >= settings.significance
    version = "" if facts.champion is None else f" version {facts.champion}"
    message = (
        f"1,000 decisions cost {abs(saved):.4g} {'less' if saved >= 0 else 'more'} than those of champion"
        f"{version} on the same {report.num_images} images (95% interval of what is saved "
        f"{_span(interval)}, p = {report.saving_over_champion_p:.3g}); a loss counts when it is no chance "
        f"(p < {settings.significance:g})."
    )
    return Rule("champion_cost", saved, 0.0, passed, message, interval, "cost", sure=interval[0] >= 0)


def answers_when_served(facts: Facts, settings: GateSettings) -> Rule:
    """A real server loaded the model and gave the golden answers."""
    smoke_test = facts.smoke_test
    limit = settings.max_difference
    if smoke_test is None:
        message = "The model was not smoke-tested in a real server."
        return Rule("served", None, limit, False, message, unit="probability")
    if not smoke_test.ok:
        message = f"The model failed its smoke test in a real server: {smoke_test.reason}"
        return Rule("served", smoke_test.max_difference, limit, False, message, unit="probability")
    message = (
        f"A real server answered {smoke_test.num_requests} golden requests with probabilities at most "
        f"{smoke_test.max_difference:.2g} away; allowed is {limit:g}."
    )
    passed = 0 <= smoke_test.max_difference <= limit
    return Rule("served", smoke_test.max_difference, limit, passed, message, unit="probability")


def answers_soon(facts: Facts, settings: GateSettings) -> Rule | None:
    """The 95th percentile of the smoke test's latency is not surely above the budget."""
    smoke_test, limit = facts.smoke_test, settings.max_latency_ms
    if not limit or smoke_test is None or smoke_test.latency_ms is None:
        return None
    interval = smoke_test.latency_interval_ms or (smoke_test.latency_ms, smoke_test.latency_ms)
    message = (
        f"95 of 100 requests with one image were answered within {smoke_test.latency_ms:.3g} ms "
        f"(95% interval {_span(interval)} ms, {smoke_test.num_timed} requests); the budget is {limit:g} ms."
    )
    passed, sure = interval[0] <= limit, interval[1] <= limit
    return Rule("latency", smoke_test.latency_ms, limit, passed, message, interval, "ms", sure)


def is_small_enough(facts: Facts, settings: GateSettings) -> Rule | None:
    """The exported model is not larger than the budget."""
    smoke_test, limit = facts.smoke_test, settings.max_size_mb
    if not limit or smoke_test is None or smoke_test.num_bytes is None:
        return None
    size = smoke_test.num_bytes / MB
    message = f"The exported model has {size:.3g} MB; the budget is {limit:g} MB."
    return Rule("size", size, limit, size <= limit, message, unit="MB")


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4g} to {interval[1]:.4g}"
