"""Gate rules on the cost of errors, serving, latency and size. See gate.py."""

from __future__ import annotations

from pergola.components.artifacts.decision import Rule
from pergola.components.evaluation.gate.settings import GateInputs, GateSettings
from pergola.components.formatting import count, milliseconds, number, number_interval, probability

MB = 1e6


def is_worth_its_cost(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The model's decisions cost less than the best constant answer, and no more than the limit.

    The limit is exceeded if it is exceeded with 95% confidence.
    """
    report = inputs.costs
    if report is None and settings.max_cost:
        message = "gate.max_cost needs the cost of errors: set export.costs."
        return Rule("expected_cost", None, settings.max_cost, False, message, unit="cost")
    if report is None:
        return None
    own, _, constant = report.spendings[:3]
    limit = min(constant.per_thousand, settings.max_cost or constant.per_thousand)
    saves, within = report.saving > 0, not settings.max_cost or own.interval[0] <= settings.max_cost
    message = (
        f"1,000 images cost {number(own.per_thousand)} (95% interval {number_interval(own.interval)}, "
        f"{count(report.num_images, 'image')}); {constant.name} would cost {number(constant.per_thousand)}, "
        f"so the model saves {number(report.saving)} (95% interval "
        f"{number_interval(report.saving_interval)}). "
        "It must save something"
    )
    message += f" and cost at most {settings.max_cost:g}." if settings.max_cost else "."
    sure = report.saving_interval[0] > 0 and not 0 < settings.max_cost < own.interval[1]
    return Rule(
        "expected_cost", own.per_thousand, limit, saves and within, message, own.interval, "cost", sure
    )


def is_served_correctly(inputs: GateInputs, settings: GateSettings) -> Rule:
    """A real server loaded the model and answered the golden requests as evaluated."""
    smoke_test = inputs.smoke_test
    limit = settings.max_difference
    if smoke_test is None:
        message = "The model was not smoke-tested in a server."
        return Rule("served", None, limit, False, message, unit="probability")
    if not smoke_test.ok:
        message = f"The model failed its smoke test: {smoke_test.reason}"
        return Rule("served", smoke_test.max_difference, limit, False, message, unit="probability")
    message = (
        f"A server answered {count(smoke_test.num_requests, 'golden request')}; its probabilities differ by "
        f"at most {probability(smoke_test.max_difference)} from the evaluated ones, {limit:g} is allowed."
    )
    passed = 0 <= smoke_test.max_difference <= limit
    return Rule("served", smoke_test.max_difference, limit, passed, message, unit="probability")


def is_fast_enough(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The 95th percentile of the latency does not exceed the limit with 95% confidence."""
    smoke_test, limit = inputs.smoke_test, settings.max_latency_ms
    if not limit or smoke_test is None or smoke_test.latency_ms is None:
        return None
    interval = smoke_test.latency_interval_ms or (smoke_test.latency_ms, smoke_test.latency_ms)
    message = (
        f"The 95th percentile of the latency for one image is {milliseconds(smoke_test.latency_ms)} (95% "
        f"interval {number_interval(interval)} ms, {count(smoke_test.num_timed, 'request')}); the limit is "
        f"{limit:g} ms."
    )
    passed, sure = interval[0] <= limit, interval[1] <= limit
    return Rule("latency", smoke_test.latency_ms, limit, passed, message, interval, "ms", sure)


def is_small_enough(inputs: GateInputs, settings: GateSettings) -> Rule | None:
    """The exported model is not larger than the limit."""
    smoke_test, limit = inputs.smoke_test, settings.max_size_mb
    if not limit or smoke_test is None or smoke_test.num_bytes is None:
        return None
    size = smoke_test.num_bytes / MB
    message = f"The size of the exported model is {number(size)} MB; the limit is {limit:g} MB."
    return Rule("size", size, limit, size <= limit, message, unit="MB")
