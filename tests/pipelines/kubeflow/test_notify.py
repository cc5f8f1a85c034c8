import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

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
