"""The anchor of a line of champions: an earlier version that no candidate may fall behind, and its answers.

Each version keeps, as anchor.parquet beside its decision, what its anchor answered to each test image. So a
comparison with the anchor costs nothing, and needs no model but the candidate.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.release import Champion


def keep_anchor(version: Path, out: Path) -> int | None:
    """Copy the answers of the anchor of the version with this provenance into `out`, where they are known.

    Gives the anchor's number; None when the version is its own anchor, as are those of 0.1.0.
    """
    (out / Champion.ANSWERS).unlink(missing_ok=True)
    anchor = Decision.load(version).anchor if (version / Decision.FILE).is_file() else None
    if anchor is not None and (version / Champion.ANSWERS).is_file():
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(version / Champion.ANSWERS, out / Champion.ANSWERS)
    return anchor


def keep_answers(
    decision: Decision, out: Path, evaluation: Path, champion: Path, champion_evaluation: Path
) -> None:
    """Write what the anchor of this decision's version answered into `out`: columns id and predicted."""
    import pyarrow.parquet as parquet

    source = evaluation / "predictions.parquet"
    if decision.anchor is not None and decision.anchor == decision.champion:
        source = champion_evaluation / "predictions.parquet"
    elif decision.anchor is not None:
        source = champion / Champion.ANSWERS
    out.mkdir(parents=True, exist_ok=True)
    parquet.write_table(parquet.read_table(source, columns=["id", "predicted"]), out / Champion.ANSWERS)
