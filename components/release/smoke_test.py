"""A model is tried in a real server before anyone depends on it.

with SmokeTestServer(RehearseSettings()) as smoke tests:
    smoke tests.start()                                        # returns at once
    smoke test = smoke tests.smoke test(saved_model, golden, out)
    client = smoke tests.serve(base, "leaves", 3)              # the same process, the published folder
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
    from pergola.serving.client.client import Client

log = logging.getLogger(__name__)

CANDIDATE = "candidate"


@dataclass(frozen=True)
class SmokeTestSettings:
    """How a model is tried in a real server."""

    timeout_s: float = setting(
        120.0, "seconds that the server may take to start, and again to load a model", low=1, high=3600
    )
    rounds: int = setting(
        5, "times that each golden request is sent alone, for the answers and the latency", low=1, high=1000
    )


class SmokeTestServer:
    """Holds the server's process for as many smoke tests and confirmations as there are."""

    def __init__(self, settings: SmokeTestSettings) -> None:
        self._settings = settings
        self._count = 0
        self._server = ServerProcess(start_timeout_s=settings.timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server. Returns at once; it loads TensorFlow meanwhile."""
        self._server.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.stop()

    def smoke_test(
        self, saved_model: Path, golden: GoldenRequests, out: Path, *, timing: Path | None = None
    ) -> SmokeTest:
        """Have a server load the model and answer the golden requests; writes smoke_test.json.

        A model that does not load, answers with an error or brings the server down gives `ok` False
        and the reason.  timing: a file for the latencies, which differ from run to run, as JSON.
        Raises StepError when the server itself does not start.
        """
        if not (saved_model / "saved_model.pb").is_file():
            raise InputError(f"{saved_model} is no SavedModel: it has no saved_model.pb.")
        self._server.start()
        self._count += 1  # a number is never used twice: the server would keep what it has under it
        link = self._server.folder / "models" / CANDIDATE / str(self._count)
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(saved_model.absolute(), link, target_is_directory=True)
        smoke_test, answers = self._try(link, golden)
        smoke_test = replace(smoke_test, num_bytes=folder_size(saved_model))
        smoke_test.save(out)
        if answers is not None:
            _tell(answers, timing)
        return smoke_test

    def serve(self, base: Path, model: str, version: int) -> Client:
        """A client of the server, which now serves this version of the published folder.

        Raises ClientError when it does not load, StepError when the server does not start.
        """
        from pergola.serving.client.client import ServedModel

        client = self._server.client(model, version, timeout_s=self._settings.timeout_s)
        try:
            client.reload([ServedModel(model, str((base / model).absolute()), versions=[version])])
            client.wait_until_available(poll_s=0.02)
        except BaseException:
            client.close()
            raise
        return client

    def _try(self, link: Path, golden: GoldenRequests) -> tuple[SmokeTest, Answers | None]:
        from pergola.serving.client.client import ClientError

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
        """What went wrong, without the names of folders that live only as long as the server."""
        if self._server.status is None:
            text = str(error).replace(str(link.resolve()), "the model").replace(str(link), "the model")
            return text.replace(str(self._server.folder), "")
        log.warning("the model server died, its last lines:\n%s", self._server.last_lines())
        return f"the model brought the server down (exit status {self._server.status})"


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tell(answers: Answers, timing: Path | None) -> None:
    figures = {
        "requests": len(answers.latencies_ms),
        "p50_ms": round(answers.percentile_ms(50), 3),
        "p95_ms": round(answers.percentile_ms(95), 3),
        "max_ms": round(max(answers.latencies_ms), 3),
    }
    log.info("smoke test %s", " ".join(f"{key}={value}" for key, value in figures.items()))
    if timing is not None:
        records.write_atomic(timing, json.dumps(figures, indent=1) + "\n")
