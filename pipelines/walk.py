"""What the stages of one run share, and what each hands to the next."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from components import artifacts
from components.errors import InputError
from components.release.rehearse import Rehearsals
from pipelines import words
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


def begin(
    photos: Path, settings: Settings, workspace: Workspace, show: Show, force: str | None = None
) -> Walk:
    """What a run or a check starts with. Raises InputError when there is nothing at `photos`."""
    settings = settings.of_a_run()
    photos = photos.expanduser().absolute()
    if not photos.exists():
        raise InputError(f"There are no pictures at '{photos}': no such file or folder. Check the path.")
    workspace.create()

    def tell(output: Output) -> None:
        show.step(output.step, words.of_step(output), output.seconds, reused=output.reused)

    steps = Steps(workspace.steps, force_from=force, on_end=tell)
    return Walk(photos, settings, workspace, show, model_name(photos, settings), steps)


def model_name(photos: Path, settings: Settings) -> str:
    """The name asked for, or the data folder's, as a name that MLflow, URLs and folders all take."""
    asked = settings.release.name or re.sub(
        r"(\.(tar|csv|zip|npz|parquet|gz|xz|bz2|tgz))+$", "", photos.name.lower()
    )
    plain = unicodedata.normalize("NFKD", asked).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")
    if settings.release.name and name != settings.release.name:
        raise InputError(
            f"release.name: '{settings.release.name}' is no model's name. Wanted letters, digits, '-', '_'"
            + (f", such as '{name}'." if name else ".")
        )
    return name or "pictures"
