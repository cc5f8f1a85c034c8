"""What the stages of one run share, and what each hands to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from components import artifacts
from components.release.rehearse import Rehearsals
from pipelines.config import Settings
from pipelines.like import Like
from pipelines.reuse import Output, Steps
from pipelines.runs import Run
from pipelines.show import Show
from pipelines.workspace import Workspace


@dataclass
class Walk:
    """What all stages of one run share."""

    photos: Path
    settings: Settings
    workspace: Workspace
    show: Show
    model: str
    steps: Steps
    like: Like | None = None  # a version that is made again, and not released
    run: Run = field(init=False)  # of `run`; a check has none
    rehearsals: Rehearsals = field(init=False)


@dataclass(frozen=True)
class Data:
    """What the pictures became."""

    manifest: Output
    validation: Output
    split: Output
    shards: Output


@dataclass(frozen=True)
class Model:
    """What was learnt, and what it is worth."""

    augmentation: Output
    training: Output
    export: Output
    evaluation: Output

    @property
    def saved_model(self) -> Path:
        """The SavedModel that all that follows is about."""
        return self.export.folder / "saved_model"


@dataclass(frozen=True)
class Verdict:
    """Whether it may ship, and what that rests on."""

    decision: artifacts.Decision
    rehearsal: Output
    rival: Output | None  # the champion's scores on the same pictures
    gate: Output
