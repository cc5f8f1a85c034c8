import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from pergola.pipelines.kubeflow import failures
from pergola.pipelines.kubeflow.notify import Ending, notify

FAILED = Ending(
    "training-1", "leaves", "FAILED", "train failed: No space left on device\n", "http://kf/#/runs/1"
)


@contextmanager
def webhook(status=200):
    """An address that takes messages, and those that it got."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args): ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_webhook_of_the_machine(monkeypatch):
    monkeypatch.delenv("PERGOLA_WEBHOOK_URL", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_notify_sends_nothing_unless_configured(caplog):
    with caplog.at_level("INFO", logger="pergola.pipelines.kubeflow.notify"):
        assert notify(FAILED) is False
    assert "No space left on device" in caplog.text


def test_notify_sends_the_error_and_the_link_in_slacks_form(monkeypatch):
    with webhook() as (address, received):
        monkeypatch.setenv("PERGOLA_WEBHOOK_URL", address)
        assert notify(FAILED) is True
        assert notify(Ending("training-2", "leaves", "SUCCEEDED")) is True
    assert received == [
        {"text": "pergola: run training-1 of leaves failed: train failed: No space left on device\nhttp://kf/#/runs/1"},
        {"text": "pergola: run training-2 of leaves succeeded"},
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_exit_task_sends_the_recorded_error_of_a_failed_run(tmp_path, monkeypatch):
    from pergola.pipelines.kubeflow import ops

    monkeypatch.setenv(failures.RUN_VARIABLE, "id-1")
    monkeypatch.setenv(failures.WORKSPACE_VARIABLE, str(tmp_path))
    failures.record("augment", failures.RefusedError("split", "Class b has 1 image."))
    with webhook() as (address, received):
        monkeypatch.setenv("PERGOLA_WEBHOOK_URL", address)
        for run_id, state, error in (("id-1", "FAILED", "exit code 1"), ("id-2", "FAILED", "exit code 1"),
                                     ("id-1", "SUCCEEDED", "")):  # fmt: skip
            status = SimpleNamespace(state=state, error_message=error)
            ops.finish.python_func(status, "training-1", run_id, "leaves", str(tmp_path), "http://kf/")
    assert [message["text"] for message in received] == [
        "pergola: run training-1 of leaves failed: split failed: Class b has 1 image."
        "\nhttp://kf/#/runs/details/id-1",
        "pergola: run training-1 of leaves failed: exit code 1\nhttp://kf/#/runs/details/id-2",
        "pergola: run training-1 of leaves succeeded\nhttp://kf/#/runs/details/id-1",
    ]


@pytest.mark.parametrize("address", ["file:///etc/passwd", "hooks.slack.com/x"])
def test_notify_takes_http_addresses_only(address, caplog):
    assert notify(FAILED, address) is False
    assert "not an http address" in caplog.text


def test_notify_never_fails_the_run(caplog):
    with webhook(status=500) as (address, received):
        assert notify(FAILED, address) is False
    assert len(received) == 1
    assert notify(FAILED, address) is False  # nobody listens there now
    assert caplog.text.count("did not accept the message") == 2
