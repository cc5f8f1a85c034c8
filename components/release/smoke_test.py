"""The smoke test: a real server loads a model and answers its golden requests before it is released.

with SmokeTestServer(SmokeTestSettings()) as server:
    server.start()                                         # returns at once
    result = server.smoke_test(saved_model, golden, out)
    client = server.serve(base, "leaves", 3)               # the same process, the published folder
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pergola.components import records
from pergola.components.artifacts.evaluation import GoldenRequests
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.errors import InputError
from pergola.components.records import setting
from pergola.components.release import golden as golden_requests
from pergola.components.release.golden import Answers, WrongAnswer
from pergola.components.release.server_process import ServerProcess
from pergola.components.stats.metrics import quantile_interval

if TYPE_CHECKING:
    from pergola.serving.client import Client

log = logging.getLogger(__name__)

CANDIDATE = "candidate"


@dataclass(frozen=True)
class SmokeTestSettings:
    """How a model is smoke-tested."""

    timeout_s: float = setting(
        120.0, "seconds for the server to start, and again to load a model", low=1, high=3600
    )
    rounds: int = setting(
        5, "how often each golden request is sent alone, for answers and latency", low=1, high=1000
    )


class SmokeTestServer:
    """The server process for any number of smoke tests and confirmations."""

    def __init__(self, settings: SmokeTestSettings) -> None:
        self._settings = settings
        self._count = 0
        self._server = ServerProcess(start_timeout_s=settings.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server. Returns at once, while the server loads TensorFlow."""
        self._server.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()

    def smoke_test(
        self, saved_model: Path, golden: GoldenRequests, out: Path, *, timing: Path | None = None
    ) -> SmokeTest:
        """Load the model in the server and send the golden requests; writes smoke_test.json.

        If the model does not load, answers with an error or crashes the server, `ok` is False and `reason`
        says why.  timing: a JSON file for the latencies, which differ from run to run.
        Raises StepError if the server itself does not start.
        """
        if not (saved_model / "saved_model.pb").is_file():
            raise InputError(f"{saved_model} is not a SavedModel: it has no saved_model.pb.")
        self._server.start()
        self._count += 1  # a number is never reused: the server would keep the loaded version
        link = self._server.folder / "models" / CANDIDATE / str(self._count)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(saved_model.absolute(), link, target_is_directory=True)
        smoke_test, answers = self._try(link, golden)
        smoke_test = replace(smoke_test, num_bytes=folder_size(saved_model))
        smoke_test.save(out)
        if answers is not None:
            _log_latencies(answers, timing)
        return smoke_test

    def serve(self, base: Path, model: str, version: int) -> Client:
        """A client of the server, which then serves this version of the published folder.

        Raises ClientError if it does not load, StepError if the server does not start.
        """
        from pergola.serving.client import ServedModel

        client = self._server.client(model, version, timeout_s=self._settings.timeout_s)
        try:
            client.reload([ServedModel(model, str((base / model).absolute()), versions=[version])])
            client.wait_until_available(poll_s=0.02)
        except BaseException:
            client.close()
            raise
        return client

    def _try(self, link: Path, golden: GoldenRequests) -> tuple[SmokeTest, Answers | None]:
        from pergola.serving.client import ClientError

        self._server.client(CANDIDATE).close()  # a server that does not start is not the model's fault
        try:
            with self.serve(link.parents[1], CANDIDATE, int(link.name)) as client:
                answers = golden_requests.ask(client, golden, rounds=self._settings.rounds)
        except (ClientError, WrongAnswer) as error:
            return SmokeTest(False, self._reason(error, link), num_requests=0, max_difference=0.0), None
        timed = answers.latencies_ms
        smoke_test = SmokeTest(
            True,
            "",
            answers.num_requests,
            answers.max_difference,
            latency_ms=answers.percentile_ms(95),
            latency_interval_ms=quantile_interval(timed, 0.95),
            num_timed=len(timed),
        )
        return smoke_test, answers

    def _reason(self, error: Exception, link: Path) -> str:
        """The reason of a failure, without the names of temporary folders."""
        if self._server.status is None:
            text = str(error).replace(str(link.resolve()), "the model").replace(str(link), "the model")
            return text.replace(str(self._server.folder), "")
        log.warning("the model server died, its last lines:\n%s", self._server.last_lines())
        return f"the model crashed the server (exit status {self._server.status})"


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _log_latencies(answers: Answers, timing: Path | None) -> None:
    figures = {
        "requests": len(answers.latencies_ms),
        "p50_ms": round(answers.percentile_ms(50), 3),
        "p95_ms": round(answers.percentile_ms(95), 3),
        "max_ms": round(max(answers.latencies_ms), 3),
    }
    log.info("smoke test %s", " ".join(f"{key}={value}" for key, value in figures.items()))
    if timing is not None:
        records.write_atomic(timing, json.dumps(figures, indent=1) + "\n")
