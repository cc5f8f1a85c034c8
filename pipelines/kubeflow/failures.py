"""Why a step of a run failed, kept in the workspace so that the exit task can report it.

Kubeflow gives an exit task the state of the run, not the error message. A pod finds its run in
$PERGOLA_RUN_ID and the workspace in $PERGOLA_WORKSPACE; without both of them nothing is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pergola.components import records
from pergola.components.errors import InputError, PergolaError

RUN_VARIABLE = "PERGOLA_RUN_ID"
WORKSPACE_VARIABLE = "PERGOLA_WORKSPACE"


class RefusedError(InputError):
    """A step of an earlier task refused its inputs, so that this step has none."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(reason)
        self.step = step


@contextmanager
def recorded(step: str) -> Iterator[None]:
    """Record an error that leaves this block, and let it pass."""
    try:
        yield
    except Exception as error:
        record(step, error)
        raise


def read(run: str, workspace: str) -> str:
    """Why a run failed; empty when nothing was recorded."""
    try:
        return _file(run, workspace).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def record(step: str, error: Exception) -> None:
    """Write down why a step failed, or the step before it that refused the data."""
    run, workspace = os.environ.get(RUN_VARIABLE), os.environ.get(WORKSPACE_VARIABLE)
    if not run or not workspace:
        return
    if isinstance(error, RefusedError):
        step = error.step
    kind = "" if isinstance(error, PergolaError) else f"{type(error).__name__}: "
    with contextlib.suppress(OSError, ValueError):  # must not hide the step's own error
        records.write_atomic(_file(run, workspace), f"{step} failed: {kind}{error}")


def _file(run: str, workspace: str) -> Path:
    if Path(run).name != run:
        raise ValueError(f"{run!r} is not the id of a run.")
    return Path(workspace) / "state" / "failures" / f"{run}.txt"
