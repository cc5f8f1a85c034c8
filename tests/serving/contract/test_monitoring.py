"""The Prometheus page."""

import re

PATH = "/monitoring/prometheus/metrics"


def value(page: str, series: str, **labels: str) -> float:
    for line in page.splitlines():
        if line.startswith(series + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def page(target) -> str:
    reply = target.get(PATH)
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain")
    return reply.body.decode()


def test_requests_are_counted_by_model_and_status(target):
    before = page(target)
    target.wire.outputs("half", {"x": [1.0]})
    target.post("/v1/models/half:predict", {"instances": [1.0]})
    target.wire.predict("half", {"x": [1.0]}, signature_name="none")
    after = page(target)

    def grown(series, **labels):
        return value(after, series, **labels) - value(before, series, **labels)

    assert grown(":tensorflow:serving:request_count", model_name="half", status="OK") == 2
    assert grown(":tensorflow:serving:request_count", model_name="half", status="FAILED_PRECONDITION") == 1
    latency = ":tensorflow:serving:request_latency_count"
    assert grown(latency, model_name="half", API="Predict", entrypoint="GRPC") == 1
    assert grown(latency, model_name="half", API="predict", entrypoint="REST") == 1
    runtime = ":tensorflow:serving:runtime_latency_count"
    assert grown(runtime, model_name="half", API="Predict", runtime="TF1") == 2


def test_latencies_have_the_stock_servers_buckets(target):
    target.wire.outputs("half", {"x": [1.0]})
    text = page(target)
    assert "# TYPE :tensorflow:serving:request_count counter" in text
    assert "# TYPE :tensorflow:serving:request_latency histogram" in text
    limits = re.findall(
        r':request_latency_bucket\{API="Predict",entrypoint="GRPC",le="([^"]+)",model_name="half"\}', text
    )
    assert limits[:3] == ["10", "18", "32.4"] and limits[-1] == "+Inf"


def test_examples_are_counted(target):
    series = ":tensorflow:serving:request_example_count_total"
    before = value(page(target), series, model="tf1")
    target.wire.regress("tf1", [{"x": 1.0}, {"x": 2.0}], signature_name="regress_x_to_y")
    assert value(page(target), series, model="tf1") - before == 2


def test_versions_have_counters_of_their_own(target):
    if not target.is_ours:
        return
    before = page(target)
    target.wire.outputs("half", {"x": [1.0]}, version=1)
    after = page(target)
    series = "pergola_model_run_microseconds_count"
    runs = [value(page, series, model_name="half", version="1") for page in (before, after)]
    assert runs[1] == runs[0] + 1
    assert value(after, "pergola_model_version_state", model_name="half", version="2", state="AVAILABLE") == 1


LABELS = {
    "request_count": {"model_name", "status"},
    "request_latency": {"model_name", "API", "entrypoint"},
    "runtime_latency": {"model_name", "API", "runtime"},
    "request_example_counts": {"model"},
    "request_example_count_total": {"model"},
}
AS_NEEDED = {
    "request_log_count", "model_warmup_latency", "model_warmup_records_read",
    "batching_session:queuing_latency", "batching_session:wrapped_run_count",
}  # fmt: skip


def test_names_and_labels_are_the_stock_servers(target):
    target.wire.outputs("half", {"x": [1.0]})
    target.wire.regress("tf1", [{"x": 1.0}], signature_name="regress_x_to_y")
    text = page(target)
    assert {name: labels_of(text, name) for name in LABELS} == LABELS
    if target.is_ours:
        assert set(re.findall(r"# TYPE :tensorflow:serving:(\S+)", text)) == set(LABELS) | AS_NEEDED


def labels_of(page: str, name: str) -> set[str]:
    series = re.search(rf"^:tensorflow:serving:{name}(?:_bucket)?\{{(.*?)\}}", page, re.M)
    return set(re.findall(r'(\w+)="', series[1])) - {"le"}
