"""What the stages of one run share, and what each hands to the next."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from pergola.components.artifacts.decision import Decision
from pergola.components.errors import InputError
from pergola.components.release.smoke_test import SmokeTestServer
from pergola.pipelines.local import summaries
from pergola.pipelines.local.progress import Show
from pergola.pipelines.local.reproduce import Like
from pergola.pipelines.local.reuse import Output, Steps
from pergola.pipelines.local.runs import Run
from pergola.pipelines.settings import Settings
from pergola.pipelines.workspace import Workspace


@dataclass
class Walk:
    """What all stages of one run share."""

    dataset: Path
    settings: Settings
    workspace: Workspace
    show: Show
    model: str
    steps: Steps
    like: Like | None = None  # a version that is made again, and not released
    run: Run = field(init=False)  # of `run`; a check has none
    smoke_test_server: SmokeTestServer = field(init=False)


@dataclass(frozen=True)
class Data:
    """What the images became."""

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

    decision: Decision
    smoke_test: Output
    rival: Output | None  # the champion's scores on the same images
    gate: Output


def begin(
    dataset: Path, settings: Settings, workspace: Workspace, show: Show, force: str | None = None
) -> Walk:
    """What a run or a check starts with. Raises InputError when there is nothing at `dataset`."""
    settings = settings.of_a_run()
    dataset = dataset.expanduser().absolute()
    if not dataset.exists():
        raise InputError(f"There are no images at '{dataset}': no such file or folder. Check the path.")
    workspace.create()

    def tell(output: Output) -> None:
        show.step(output.step, summaries.of_step(output), output.seconds, reused=output.reused)

    steps = Steps(workspace.steps, force_from=force, on_end=tell)
    return Walk(dataset, settings, workspace, show, model_name(dataset, settings), steps)


def model_name(dataset: Path, settings: Settings) -> str:
    """The name asked for, or the data folder's, as a name that MLflow, URLs and folders all take."""
    asked = settings.release.name or re.sub(
        r"(\.(tar|csv|zip|npz|parquet|gz|xz|bz2|tgz))+$", "", dataset.name.lower()
    )
    plain = unicodedata.normalize("NFKD", asked).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_")
    if settings.release.name and name != settings.release.name:
        raise InputError(
            f"release.name: '{settings.release.name}' is no model's name. Wanted letters, digits, '-', '_'"
            + (f", such as '{name}'." if name else ".")
        )
    return name or "images"
