"""A registered version of a real classifier, as the steps of a run leave it before anything is published."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import numpy as np

from pergola.components import digest
from pergola.components.artifacts.decision import HELD
from pergola.components.artifacts.evaluation import GoldenRequest, GoldenRequests
from pergola.components.artifacts.release import Registration
from pergola.components.artifacts.training import Export
from pergola.components.settings import Settings
from pergola.components.steps import release
from pergola.components.steps.context import Context, RunInfo
from pergola.components.workspace import Workspace
from tests.support import models, step_artifacts

LEVELS = (20, 126, 129, 240)  # of brightness; the second and third are close to the border


def golden(tilt: float = 0.0) -> GoldenRequests:
    """What models.classifier with this tilt answers, worked out by hand."""
    requests = []
    for level in LEVELS:
        logits = np.array([-8.0, 8.0]) * level / 255 + [4.0, -4.0 + tilt]
        answer = np.exp(logits) / np.exp(logits).sum()
        image = base64.b64encode(models.image_bytes(level)).decode()
        requests.append(GoldenRequest(image, tuple(answer.tolist()), models.LABELS[int(answer.argmax())]))
    return GoldenRequests(models.LABELS, tuple(requests))


def register(
    workspace: Workspace,
    scratch: Path,
    tilt: float,
    outcome: str = HELD,
    expects: float | None = None,
    loads: bool = True,
) -> Registration:
    """The next version of "shades".  tilt: of the model.  expects: of its golden requests, if they differ.
    loads: False: a folder that only looks like a SavedModel, made without TensorFlow.
    """
    made = step_artifacts.to_register(scratch, outcome=outcome)
    if loads:
        shutil.rmtree(made["export"])
        shutil.copytree(models.classifier(scratch / "model", tilt=tilt), made["export"] / "saved_model")
        sha256 = digest.of_folder(made["export"] / "saved_model")
        Export(models.LABELS, 8, 8, 3, 100, sha256).save(made["export"])
    golden(tilt if expects is None else expects).save(made["evaluation"])
    (made["reference"] / "reference.json").write_text(f"{tilt}")
    settings = Settings.of({"smoke_test": {"timeout_s": 300}})
    context = Context(scratch, "shades", settings, workspace, RunInfo(f"run-{tilt}", "pergola run shades"))
    found = release.register(context, scratch / "registration", **made)
    assert found is not None
    return found
