"""The record of a run: when it began, what was requested, how it ended."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.settings import Settings, to_toml
from pergola.components.workspace import Workspace
from pergola.pipelines.local.cache import Output

log = logging.getLogger(__name__)

RUNNING, DONE, FAILED = "running", "done", "failed"


@dataclass
class Run:
    """One run in `<workspace>/runs/<id>/`."""

    id: str
    folder: Path
    record: dict[str, Any]

    @classmethod
    def begin(
        cls,
        workspace: Workspace,
        dataset: Path,
        settings: Settings,
        command: str,
        reason: str = "",
        reproduces: str = "",
    ) -> Run:
        """A new run, or the last one if it was interrupted and has the same dataset and settings.

        command: the command line, for the report.  reason: why the run was started automatically.
        reproduces: the version that is reproduced, such as "leaves/3"; such a run releases nothing.
        """
        request = {"source": str(dataset), "settings": records.to_dict(settings), "like": reproduces}
        for last in workspace.run_ids()[-1:]:
            record = workspace.run_record(last)
            if record.get("state") == RUNNING and all(record.get(key) == request[key] for key in request):
                return cls(last, workspace.runs / last, record)
        id = _new_id(time.time())
        run = cls(id, workspace.runs / id, {"id": id, "state": RUNNING, "command": command, "began": _now()})
        run.record.update({"reason": reason} if reason else {})
        run.record.update(request, steps={})
        run.save()
        records.write_atomic(run.folder / "settings.toml", to_toml(settings))
        return run

    def end(self, state: str, steps: Mapping[str, Output], **facts: Any) -> None:
        """Record how it ended, and the outputs that it used."""
        used = {
            name: {"key": output.key, "sha256": output.sha256, "reused": output.reused}
            for name, output in steps.items()
        }
        self.record.update(state=state, ended=_now(), steps=used, **facts)
        self.save()

    def save(self) -> None:
        """Write run.json."""
        text = json.dumps(self.record, indent=1, ensure_ascii=False)
        records.write_atomic(self.folder / "run.json", text + "\n")


def kept_outputs(workspace: Workspace, num_runs: int) -> set[str]:
    """ "<step>/<key>" of each output that the last runs used."""
    kept = set()
    for id in workspace.run_ids()[-num_runs:]:
        steps = workspace.run_record(id).get("steps")
        if not isinstance(steps, dict) or not all(
            isinstance(used, dict) and "key" in used for used in steps.values()
        ):
            log.warning(
                "%s is damaged: intermediate files of this run may be made again", workspace.runs / id
            )
            continue
        kept |= {f"{step}/{used['key']}" for step, used in steps.items()}
    return kept


def listed(workspace: Workspace, num_runs: int) -> tuple[list[dict[str, Any]], str]:
    """The last runs, newest first, as data and as text: state, outcome, model, version.

    Raises InputError if there is no workspace.
    """
    workspace.require()
    rows = []
    for id in reversed(workspace.run_ids()[-num_runs:]):
        record = workspace.run_record(id)
        result = record.get("result") or {}
        outcome = result.get("outcome") or result.get("decision")  # as 0.1.0 called it
        rows.append({
            "id": id, "state": record.get("state"), "outcome": outcome, "model": result.get("model"),
            "version": result.get("version"), "began": record.get("began"), "error": record.get("error"),
        })  # fmt: skip
    return rows, "\n".join(map(_line, rows)) or "There has been no run yet."


def _line(row: Mapping[str, Any]) -> str:
    version = f"{row['model']} version {row['version']}" if row["version"] else row["model"] or ""
    return f"{row['id']}  {row['outcome'] or row['state']:<9} {version or row['error'] or ''}".rstrip()


def _new_id(now_s: float) -> str:
    """Time with fractions of a second, so that ids sort by start, then random digits."""
    second = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
    return f"{second}-{int(now_s % 1 * 0x10000):04x}{secrets.token_hex(2)}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
