"""A model of 8 pixels a side as pergola exports it, with drawn weights: its answers follow the pixels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

LABELS = ("bottom", "left", "middle")


def exported(base: Path, version: int = 1, max_pixels: int = 0) -> Path:
    """Export the model to `<base>/<version>/` and give that folder. max_pixels: as in ExportSettings."""
    from pergola.components.artifacts.training import Training
    from pergola.components.training import export
    from pergola.components.training.models import architectures
    from pergola.components.training.models.architectures import ModelSettings
    from pergola.components.training.models.statistics import Statistics
    from tests.components.training.conftest import write_shards

    work = base / "work"
    write_shards(work / "shards", counts={part: (2, 2, 2) for part in ("train", "validation", "test")})
    plan = architectures.Plan("resnet_fast", "a test", 8, 8, 3, 3, 8)
    statistics = Statistics((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    network = architectures.build(plan, ModelSettings(dropout=0.0), statistics, fused=False)
    rng = np.random.default_rng(0)
    network.set_weights([_drawn(rng, weight.shape) for weight in network.get_weights()])
    logits = network.get_layer("logits")
    logits.set_weights([weight * 0.1 for weight in logits.get_weights()])  # else all answers are certain
    network.save(work / "model.keras")
    Training("resnet_fast", "a test", LABELS, 8, 8, 3, 1, 1, 1, ({"loss": 1.0},), "float32", 0).save(work)
    settings = export.ExportSettings(calibrate=False, max_pixels=max_pixels)
    export.export(work, work / "shards", work, settings)
    shutil.move(work / "saved_model", base / str(version))
    shutil.rmtree(work)
    return base / str(version)


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) > 1:
        return rng.normal(0.0, (2.0 / np.prod(shape[:-1])) ** 0.5, shape)
    return rng.uniform(0.5, 1.5, shape)
