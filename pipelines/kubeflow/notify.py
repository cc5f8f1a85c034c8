"""Reports how a run ended to a webhook that takes Slack's format. Sends nothing unless one is configured."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass

WEBHOOK_VARIABLE = "PERGOLA_WEBHOOK_URL"
TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    run: str
    model: str
    state: str  # "SUCCEEDED", "FAILED", "CANCELLED"
    error: str = ""
    link: str = ""

    def text(self) -> str:
        """The message."""
        verb = {"SUCCEEDED": "succeeded", "FAILED": "failed"}.get(self.state, f"ended {self.state}")
        why = f": {self.error.strip()[:1500]}" if self.error.strip() else ""
        where = f"\n{self.link}" if self.link else ""
        return f"pergola: run {self.run} of {self.model} {verb}{why}{where}"


def notify(ending: Ending, webhook: str | None = None) -> bool:
    """Whether a message was sent.

    webhook: its address; the default is $PERGOLA_WEBHOOK_URL. A webhook that does not answer is logged, not
    raised: it changes nothing about the run.
    """
    log.info("%s", ending.text())
    address = webhook or os.environ.get(WEBHOOK_VARIABLE, "")
    if not address:
        return False
    if not address.startswith(("https://", "http://")):
        log.warning("%s is not an http address; nothing was sent", WEBHOOK_VARIABLE)
        return False
    request = urllib.request.Request(
        address, json.dumps({"text": ending.text()}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return bool(200 <= answer.status < 300)
    except (urllib.error.URLError, OSError) as error:
        log.warning("the webhook did not accept the message: %s", getattr(error, "reason", error))
        return False
