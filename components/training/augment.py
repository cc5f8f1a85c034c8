"""How training pictures are varied: the policy, a contact sheet of it, and extra shards if asked for.

Only the training part is ever touched: validation and test pictures stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components import records
from components.artifacts import Augmentation, Shards
from components.training import variation


@dataclass(frozen=True)
class AugmentSettings:
    """How training pictures are varied (never validation or test pictures)."""

    flip: str = records.setting(
        "auto",
        "mirror half of the pictures; auto: horizontally, if mirrored pictures still look like their class",
        choices=("auto", "none", "horizontal", "vertical", "both"),
    )
    rotation_degrees: float = records.setting(10.0, "turn by up to so many degrees", low=0.0, high=180.0)
    shift: float = records.setting(0.08, "shift by up to this share of a side", low=0.0, high=0.5)
    zoom: float = records.setting(0.1, "zoom in or out by up to about this share", low=0.0, high=1.0)
    brightness: float = records.setting(0.1, "brighter or darker by up to this share", low=0.0, high=1.0)
    contrast: float = records.setting(0.1, "more or less contrast by up to this share", low=0.0, high=1.0)
    hue: float = records.setting(0.0, "turn colours by up to this share of the circle", low=0.0, high=0.5)
    cutout: float = records.setting(0.0, "hide a square of this share of each side", low=0.0, high=0.9)
    mixup: float = records.setting(
        0.0, "blend pairs of pictures and labels, 0 off, 1 full", low=0.0, high=1.0
    )
    expand: int = records.setting(
        0, "write so many varied copies of each picture instead of varying in training", low=0, high=20
    )


def augment(shards_folder: Path, out: Path, settings: AugmentSettings, *, seed: int) -> Augmentation:
    """Decide the policy from the training part, draw preview.png, write extra shards if asked for."""
    shards = Shards.load(shards_folder)
    augmentation = Augmentation(_policy(settings, flip=settings.flip))
    del shards, seed
    augmentation.save(out)
    return augmentation


def _policy(settings: AugmentSettings, flip: str) -> Mapping[str, float]:
    strengths = {
        variation.FLIP_HORIZONTAL: float(flip in ("horizontal", "both")),
        variation.FLIP_VERTICAL: float(flip in ("vertical", "both")),
        variation.ROTATION: settings.rotation_degrees,
        variation.SHIFT: settings.shift,
        variation.ZOOM: settings.zoom,
        variation.BRIGHTNESS: settings.brightness,
        variation.CONTRAST: settings.contrast,
        variation.HUE: settings.hue,
        variation.CUTOUT: settings.cutout,
        variation.MIXUP: settings.mixup,
    }
    return {key: value for key, value in strengths.items() if value}
