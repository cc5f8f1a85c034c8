"""Why a step of a run failed, kept in the workspace, so that the exit task can tell people.

Kubeflow tells an exit task only that something failed, not what was said. A pod knows its run by
$PERGOLA_RUN_ID and the workspace by $PERGOLA_WORKSPACE; without them nothing is kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pergola.components import records
from pergola.components.errors import PergolaError

RUN_VARIABLE = "PERGOLA_RUN_ID"
WORKSPACE_VARIABLE = "PERGOLA_WORKSPACE"


@contextmanager
def noted(step: str) -> Iterator[None]:
    """Leave a note of an error in this block, which goes on its way."""
    try:
        yield
    except Exception as error:
        note(step, error)
        raise


def read(run: str, workspace: str) -> str:
    """What was noted of a run; empty when nothing was."""
    try:
        return _file(run, workspace).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def note(step: str, error: Exception) -> None:
    """Keep why a step failed. Nothing happens where nobody says which run this is."""
    run, workspace = os.environ.get(RUN_VARIABLE), os.environ.get(WORKSPACE_VARIABLE)
    if not run or not workspace:
        return
    kind = "" if isinstance(error, PergolaError) else f"{type(error).__name__}: "
    with contextlib.suppress(OSError, ValueError):  # the step's own error is what counts
        records.write_atomic(_file(run, workspace), f"{step} failed: {kind}{error}")


def _file(run: str, workspace: str) -> Path:
    if Path(run).name != run:
        raise ValueError(f"{run!r} is no run's id.")
    return Path(workspace) / "state" / "failures" / f"{run}.txt"
