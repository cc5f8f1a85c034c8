"""Canary analysis: error rate, p99 latency and golden requests of a canary and the stable version.

The metrics come from the servers' Prometheus pages (TensorFlow Serving's or ours). Latencies are histograms;
percentiles are linear interpolations within a bucket.
"""

from __future__ import annotations

import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from pergola.components import records
from pergola.components.errors import InputError, StepError
from pergola.components.stats.metrics import wilson_interval

PROMOTE, WITHDRAW, WAIT = "promote", "withdraw", "wait"
PAGE = "/monitoring/prometheus/metrics"
_COUNT, _LATENCY = ":tensorflow:serving:request_count", ":tensorflow:serving:request_latency_bucket"


@dataclass(frozen=True)
class WatchSettings:
    """The limits of a canary analysis."""

    window_s: float = records.setting(300.0, "seconds to observe", low=1)
    poll_s: float = records.setting(15.0, "seconds between two readings", low=0.01)
    min_requests: int = records.setting(200, "requests that the canary must get for a decision", low=1)
    error_margin: float = records.setting(
        0.01, "largest error rate of the canary - error rate of stable", low=0, high=1
    )
    p99_ratio: float = records.setting(1.5, "largest p99 of the canary / p99 of stable", low=1)
    golden_difference: float = records.setting(0.01, "largest |served - golden| probability", low=0, high=1)


@dataclass(frozen=True)
class Figures:
    """Requests since the servers started, or the difference of two readings."""

    requests: int = 0
    errors: int = 0
    buckets: Counter[float] = field(
        default_factory=Counter
    )  # upper bound in microseconds -> requests up to it

    def __sub__(self, earlier: Figures) -> Figures:
        if earlier.requests > self.requests:  # a server was restarted and counts from 0
            return self
        left = Counter({bound: count - earlier.buckets[bound] for bound, count in self.buckets.items()})
        return Figures(self.requests - earlier.requests, self.errors - earlier.errors, left)

    def __add__(self, other: Figures) -> Figures:
        both = Counter({b: self.buckets[b] + other.buckets[b] for b in {*self.buckets, *other.buckets}})
        return Figures(self.requests + other.requests, self.errors + other.errors, both)

    @property
    def error_rate(self) -> float:
        """Share of requests that failed, 0 to 1."""
        return self.errors / self.requests if self.requests else 0.0

    def p99_ms(self) -> float:
        """99th percentile of the latency; 0 without requests."""
        bounds = sorted(self.buckets)
        total = self.buckets[bounds[-1]] if bounds else 0
        below, low = 0, 0.0
        for bound in bounds:
            count = self.buckets[bound]
            if total and count >= 0.99 * total:
                if bound == float("inf"):
                    return low / 1000
                return (low + (bound - low) * (0.99 * total - below) / max(1, count - below)) / 1000
            below, low = count, bound
        return 0.0


@dataclass(frozen=True)
class CanaryVerdict:
    """What to do with the canary, and why: one sentence per rule."""

    action: str  # PROMOTE, WITHDRAW or WAIT
    reasons: tuple[str, ...]


def judge(stable: Figures, canary: Figures, golden: float | None, settings: WatchSettings) -> CanaryVerdict:
    """The verdict at the end of a window.

    golden: largest |served - golden| probability; None if no golden requests were sent.
    The error rate is compared by its 95% Wilson interval: it is too high if the canary's lower bound is above
    stable's rate plus the margin, and low enough for a promotion if the upper bound is not.
    """
    if golden is not None and golden > settings.golden_difference:
        limit = settings.golden_difference
        return CanaryVerdict(
            WITHDRAW, (f"golden requests differ by {golden:.4f}, at most {limit:.4f} is allowed.",)
        )
    if canary.requests < settings.min_requests:
        wanted = settings.min_requests
        return CanaryVerdict(
            WAIT, (f"the canary got {canary.requests} requests, at least {wanted} are needed.",)
        )
    low, high = wilson_interval(canary.errors, canary.requests)
    limit = stable.error_rate + settings.error_margin
    errors = (
        f"error rate {canary.error_rate:.2%} ({low:.2%} to {high:.2%}) "
        f"compared with {stable.error_rate:.2%} of stable, limit {limit:.2%}."
    )
    before, now = stable.p99_ms(), canary.p99_ms()
    p99 = f"p99 {now:.1f} ms compared with {before:.1f} ms of stable, limit {settings.p99_ratio:g} times."
    faults = [errors] if low > limit else []
    faults += [p99] if before and now > before * settings.p99_ratio else []
    if faults:
        return CanaryVerdict(WITHDRAW, tuple(faults))
    if high > limit:
        return CanaryVerdict(WAIT, (f"{errors} Too few requests to be sure.",))
    answers = (f"golden requests differ by {golden:.4f}.",) if golden is not None else ()
    return CanaryVerdict(PROMOTE, (errors, p99, *answers))


def watch(
    look: Callable[[], tuple[Figures, Figures]],
    ask_golden: Callable[[], float] | None,
    settings: WatchSettings,
    *,
    on_look: Callable[[Figures, Figures], None] = lambda stable, canary: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CanaryVerdict:
    """Take readings until the window ends, then decide. Ends early only if the canary is certain to fail.

    look: metrics of stable and canary since their servers started.
    ask_golden: sends the golden requests to the canary; returns the largest difference of probabilities.
    """
    golden = ask_golden() if ask_golden else None
    if golden is not None and golden > settings.golden_difference:
        return judge(Figures(), Figures(), golden, settings)
    first = look()
    deadline = clock() + settings.window_s
    while True:
        sleep(max(0.0, min(settings.poll_s, deadline - clock())))
        stable, canary = (now - before for now, before in zip(look(), first, strict=True))
        on_look(stable, canary)
        if clock() >= deadline:
            return judge(stable, canary, golden, settings)
        if canary.requests >= settings.min_requests and canary.errors == canary.requests:
            return CanaryVerdict(WITHDRAW, (f"all of {canary.requests} requests to the canary failed.",))


def figures_of(page: str, model: str) -> Figures:
    """The figures of one model in a page of Prometheus metrics. Raises ValueError for anything else."""
    from prometheus_client.parser import text_string_to_metric_families

    requests = errors = 0
    buckets: Counter[float] = Counter()
    for sample in (s for family in text_string_to_metric_families(page) for s in family.samples):
        if sample.labels.get("model_name") != model:
            continue
        if sample.name.removesuffix("_total") == _COUNT:  # the parser appends it to names of counters
            requests += int(sample.value)
            errors += int(sample.value) if sample.labels.get("status") != "OK" else 0
        elif sample.name == _LATENCY:
            buckets[float(sample.labels["le"])] += int(sample.value)
    return Figures(requests, errors, buckets)


def scrape(addresses: Sequence[str], model: str) -> Figures:
    """The sum over all servers, including all addresses of a name (a headless Service).

    addresses: REST addresses, such as http://model-server-canary:8501.  Raises
    StepError if one does not answer.
    """
    total = Figures()
    for address in addresses:
        for url in _each(address):
            try:
                with urllib.request.urlopen(url + PAGE, timeout=5) as reply:
                    total += figures_of(reply.read().decode("utf-8", errors="replace"), model)
            except OSError as error:
                reason = getattr(error, "reason", None) or error
                why = getattr(reason, "strerror", None) or reason
                raise StepError(
                    f"{url} does not report metrics: {why}. Nothing was changed. Check that the server is "
                    f"ready and its monitoring is on."
                ) from None
            except ValueError as error:
                raise StepError(
                    f"{url}{PAGE} has no Prometheus metrics: {error}. Nothing was changed. Is it the REST "
                    f"address of a model server?"
                ) from None
    return total


def _each(address: str) -> list[str]:
    parts = urlsplit(address.rstrip("/"))
    if parts.scheme != "http" or not parts.hostname:
        raise InputError(
            f"A server's REST address looks like http://model-server-canary:8501. Got {address!r}."
        )
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 8501, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise StepError(
            f"{parts.hostname} cannot be resolved: {error.strerror or error}. Nothing was changed. "
            f"A headless Service resolves only inside the cluster and while one of its pods is ready."
        ) from None
    hosts = sorted({str(entry[4][0]) for entry in found})
    return [urlunsplit(("http", f"{host}:{parts.port or 8501}", parts.path, "", "")) for host in hosts]
