"""A canary beside the stable version: is it as sound? By error rate, p99 and golden answers over a window.

The figures come from the monitoring pages of the model servers (TensorFlow Serving's or ours), whose
latencies are histograms; a percentile is read off them by linear interpolation within its bucket.
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
    """When a canary is good enough."""

    window_s: float = records.setting(300.0, "seconds to watch", low=1)
    poll_s: float = records.setting(15.0, "seconds between two looks", low=0.01)
    min_requests: int = records.setting(200, "requests to the canary below which nothing is decided", low=1)
    error_margin: float = records.setting(0.01, "by how much its error rate may be higher", low=0, high=1)
    p99_ratio: float = records.setting(1.5, "times that its p99 may be stable's", low=1)
    golden_difference: float = records.setting(0.01, "largest |served - golden| probability", low=0, high=1)


@dataclass(frozen=True)
class Figures:
    """Requests since the servers started, or within a window by subtraction."""

    requests: int = 0
    errors: int = 0
    buckets: Counter[float] = field(
        default_factory=Counter
    )  # upper bound in microseconds -> requests up to it

    def __sub__(self, earlier: Figures) -> Figures:
        if earlier.requests > self.requests:  # a server was restarted: what it counts now is new
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
        """99th percentile of the latency; 0 when nothing was answered."""
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
class Verdict:
    """What to do with the canary, and why: a sentence a rule."""

    action: str  # PROMOTE, WITHDRAW or WAIT
    reasons: tuple[str, ...]


def judge(stable: Figures, canary: Figures, golden: float | None, settings: WatchSettings) -> Verdict:
    """The verdict at the end of a window.

    golden: largest |served - golden| probability; None when no golden answers were asked for.
    The error rate is judged by the 95% Wilson interval: the canary's lower bound above stable's rate
    and margin is a fault; its upper bound must not be above for a promotion.
    """
    if golden is not None and golden > settings.golden_difference:
        limit = settings.golden_difference
        return Verdict(WITHDRAW, (f"golden answers differ by {golden:.4f}, at most {limit:.4f} allowed.",))
    if canary.requests < settings.min_requests:
        wanted = settings.min_requests
        return Verdict(WAIT, (f"the canary got {canary.requests} requests, wanted {wanted} to judge it.",))
    low, high = wilson_interval(canary.errors, canary.requests)
    limit = stable.error_rate + settings.error_margin
    errors = (
        f"error rate {canary.error_rate:.2%} ({low:.2%} to {high:.2%}) "
        f"beside stable's {stable.error_rate:.2%}, limit {limit:.2%}."
    )
    before, now = stable.p99_ms(), canary.p99_ms()
    p99 = f"p99 {now:.1f} ms beside stable's {before:.1f} ms, limit {settings.p99_ratio:g} times."
    faults = [errors] if low > limit else []
    faults += [p99] if before and now > before * settings.p99_ratio else []
    if faults:
        return Verdict(WITHDRAW, tuple(faults))
    if high > limit:
        return Verdict(WAIT, (f"{errors} Too few requests to be sure.",))
    answers = (f"golden answers differ by {golden:.4f}.",) if golden is not None else ()
    return Verdict(PROMOTE, (errors, p99, *answers))


def watch(
    look: Callable[[], tuple[Figures, Figures]],
    ask_golden: Callable[[], float] | None,
    settings: WatchSettings,
    *,
    on_look: Callable[[Figures, Figures], None] = lambda stable, canary: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Look until the window ends, then judge. Ends early only for what no patience mends.

    look: figures of stable and canary since their servers started.
    ask_golden: asks the canary, and gives the largest difference of a probability.
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
            return Verdict(WITHDRAW, (f"all of {canary.requests} requests to the canary failed.",))


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
    """The sum over all servers. A name that stands for several (a headless Service) is asked at each of them.

    addresses: of REST, such as http://model-server-canary:8501.  Raises StepError when one does not answer.
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
                    f"{url} does not tell its figures: {why}. Nothing was changed. Is the server ready, and "
                    f"its monitoring on?"
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
            f"{parts.hostname} has no address: {error.strerror or error}. Nothing was changed. A headless "
            f"Service has none while no pod of it is ready; elsewhere than in the cluster it has no name."
        ) from None
    hosts = sorted({str(entry[4][0]) for entry in found})
    return [urlunsplit(("http", f"{host}:{parts.port or 8501}", parts.path, "", "")) for host in hosts]
