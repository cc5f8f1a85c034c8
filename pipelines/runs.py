"""The record of a run: when it began, what it was asked, what became of it."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import records
from pipelines.reuse import Output
from pipelines.workspace import Workspace

RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass
class Run:
    """One run in `<workspace>/runs/<id>/`."""

    id: str
    folder: Path
    record: dict[str, Any]

    @classmethod
    def begin(cls, workspace: Workspace, request: str, source: str, command: str) -> Run:
        """A new run, or the last one if it was cut off while it did the very same.

        request: SHA-256 over source and settings.  command: what would repeat it.
        """
        for last in workspace.run_ids()[-1:]:
            record = workspace.run_record(last)
            if record.get("state") == RUNNING and record.get("request") == request:
                return cls(last, workspace.runs / last, record)
        id = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)
        record = {"id": id, "state": RUNNING, "request": request, "source": source, "command": command}
        run = cls(id, workspace.runs / id, {**record, "began": _now(), "steps": {}})
        run.save()
        return run

    def add(self, output: Output) -> None:
        """Note a step."""
        self.record["steps"][output.step] = {
            "key": output.key,
            "sha256": output.sha256,
            "reused": output.reused,
        }
        self.save()

    def end(self, state: str, **facts: Any) -> None:
        """Note how it ended."""
        self.record.update(state=state, ended=_now(), **facts)
        self.save()

    def save(self) -> None:
        """Write run.json."""
        records.write_atomic(
            self.folder / "run.json", json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        )


def kept_outputs(workspace: Workspace, num_runs: int) -> set[str]:
    """ "<step>/<key>" of what the last runs used."""
    kept = set()
    for id in workspace.run_ids()[-num_runs:]:
        for step, output in workspace.run_record(id).get("steps", {}).items():
            kept.add(f"{step}/{output['key']}")
    return kept


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
