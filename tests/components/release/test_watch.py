"""Whether a canary is as sound as the stable version."""

import http.server
import threading
from collections import Counter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram

from pergola.components.errors import InputError, StepError
from pergola.components.store import canary_analysis
from pergola.components.store.canary_analysis import Figures, WatchSettings

SETTINGS = WatchSettings(window_s=10, poll_s=1, min_requests=100)


def figures(requests, errors=0, p99_ms=10.0):
    bound = p99_ms * 1000
    return Figures(requests, errors, Counter({bound / 2: 0, bound: requests, float("inf"): requests}))


def test_judge_promotes_a_canary_that_is_as_sound():
    verdict = canary_analysis.judge(figures(10_000, 10), figures(2_000, 2), 0.0001, SETTINGS)
    assert verdict.action == canary_analysis.PROMOTE
    assert len(verdict.reasons) == 3


@pytest.mark.parametrize(
    ("canary", "golden", "reason"),
    [
        (figures(2_000, 200), None, "error rate 10.00%"),
        (figures(2_000, 2, p99_ms=100), None, "p99"),
        (figures(2_000), 0.2, "golden requests differ by 0.2000"),
    ],
)
def test_judge_withdraws_and_says_why(canary, golden, reason):
    verdict = canary_analysis.judge(figures(10_000, 10), canary, golden, SETTINGS)
    assert verdict.action == canary_analysis.WITHDRAW
    assert reason in verdict.reasons[0]


def test_judge_waits_when_there_is_too_little_to_go_by():
    assert canary_analysis.judge(figures(10_000), figures(99), None, SETTINGS).action == canary_analysis.WAIT
    unsure = canary_analysis.judge(figures(10_000), figures(150, 1), None, SETTINGS)
    assert unsure.action == canary_analysis.WAIT
    assert "Too few requests to be sure" in unsure.reasons[0]


def test_judge_rarely_withdraws_an_equal_canary():
    rng = np.random.default_rng(7)
    actions = Counter(
        canary_analysis.judge(
            figures(20_000, int(rng.binomial(20_000, 0.02))),
            figures(2_000, int(rng.binomial(2_000, 0.02))),
            None,
            SETTINGS,
        ).action
        for _ in range(400)
    )
    assert actions[canary_analysis.WITHDRAW] <= 4
    assert actions[canary_analysis.PROMOTE] >= 200


def test_p99_of_a_histogram_is_near_that_of_its_numbers():
    registry = CollectorRegistry()
    bounds = [10 * 1.8**i for i in range(33)]
    histogram = Histogram("x", "x", buckets=bounds, registry=registry)
    values = np.random.default_rng(3).gamma(4, 5_000, 20_000)
    for value in values:
        histogram.observe(value)
    samples = next(iter(registry.collect())).samples
    counts = Counter({float(s.labels["le"]): int(s.value) for s in samples if s.name == "x_bucket"})
    exact = float(np.percentile(values, 99)) / 1000
    assert Figures(20_000, 0, counts).p99_ms() == pytest.approx(exact, rel=0.25)


def test_figures_start_anew_when_a_server_was_restarted():
    assert (figures(50) - figures(1000)).requests == 50
    assert (figures(1000, 5) - figures(400, 1)).errors == 4


class Steps:
    """Pages over time; the clock moves when someone sleeps."""

    def __init__(self, looks):
        self.looks, self.now = iter(looks), 0.0

    def look(self):
        return next(self.looks)

    def sleep(self, seconds):
        self.now += seconds

    def run(self, golden=None):
        ask = (lambda: golden) if golden is not None else None
        return canary_analysis.watch(self.look, ask, SETTINGS, clock=lambda: self.now, sleep=self.sleep)


def test_watch_judges_only_what_happened_in_the_window():
    before = (figures(1_000_000, 0), figures(1_000, 1_000))
    after = (figures(1_010_000, 0), figures(3_000, 1_000))
    steps = Steps([before, *[after] * 10])
    assert steps.run().action == canary_analysis.PROMOTE
    assert steps.now == 10


def test_watch_ends_early_when_nothing_works():
    steps = Steps([(figures(0), figures(0)), (figures(900), figures(100, 100))])
    assert steps.run().action == canary_analysis.WITHDRAW
    assert steps.now == 1


def test_watch_ends_before_it_began_when_golden_answers_are_wrong():
    steps = Steps([])
    assert "golden" in steps.run(golden=0.5).reasons[0]


PAGE = """
# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="leaves",status="OK"} 7
:tensorflow:serving:request_count{model_name="leaves",status="INTERNAL"} 3
:tensorflow:serving:request_count{model_name="other",status="OK"} 100
:tensorflow:serving:request_latency_bucket{model_name="leaves",API="Predict",entrypoint="GRPC",le="10"} 4
:tensorflow:serving:request_latency_bucket{model_name="leaves",API="predict",entrypoint="REST",le="10"} 2
:tensorflow:serving:request_latency_bucket{model_name="leaves",API="Predict",entrypoint="GRPC",le="+Inf"} 7
"""


def test_figures_read_escaped_labels_and_refuse_other_pages():
    page = PAGE.replace('"leaves"', r'"a \"quoted\", {odd} name"')
    assert canary_analysis.figures_of(page, 'a "quoted", {odd} name').requests == 10
    with pytest.raises(ValueError, match="html"):
        canary_analysis.figures_of("<html>404</html>", "leaves")


def test_figures_of_a_page_are_those_of_one_model():
    found = canary_analysis.figures_of(PAGE, "leaves")
    assert (found.requests, found.errors) == (10, 3)
    assert found.buckets == {10.0: 6, float("inf"): 7}


def test_scrape_adds_up_servers():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        assert canary_analysis.scrape([address, address], "leaves").requests == 20
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(StepError, match="does not report metrics"):
        canary_analysis.scrape([address], "leaves")
    with pytest.raises(InputError, match="looks like http://"):
        canary_analysis.scrape(["model-server:8500"], "leaves")
