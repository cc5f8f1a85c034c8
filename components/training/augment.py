"""How training pictures are varied: the policy, a contact sheet of it, and extra shards if asked for.

Only the training part is ever touched: validation and test pictures stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components import records
from components.artifacts import TRAIN, Augmentation, Part, Shards
from components.data import images
from components.training import expand, feed, mirror, preview, variation

MOST_LOOKED_AT = 2000  # training pictures by which mirroring is judged
PHOTOGRAPH = 64  # pixels of a median side from which on colour pictures are taken for photographs
BY_PICTURES = -1.0
MANY = 10_000  # small pictures from which on they vary enough by themselves for the few passes they get
FAINT = (0.1, 0.1)  # brightness and contrast
LIGHT = (0.3, 0.2)  # those of photographs, whose light differs: see docs/trust.md
_AUTO = "-1: by the pictures"
_STRENGTHS = {
    variation.ROTATION: 10.0,
    variation.SHIFT: 0.08,
    variation.ZOOM: 0.1,
    variation.BRIGHTNESS: FAINT[0],
    variation.CONTRAST: FAINT[1],
}
_STRENGTHS_OF_MANY = {variation.SHIFT: 0.06}


@dataclass(frozen=True)
class AugmentSettings:
    """How training pictures are varied (never validation or test pictures)."""

    flip: str = records.setting(
        "auto",
        "mirror half of the pictures; auto: left to right, unless that makes another class of them",
        choices=("auto", "none", "horizontal", "vertical", "both"),
    )
    rotation_degrees: float = records.setting(
        BY_PICTURES, f"turn by up to so many degrees; {_AUTO}", low=BY_PICTURES, high=180.0
    )
    shift: float = records.setting(
        BY_PICTURES, f"shift by up to this share of a side; {_AUTO}", low=BY_PICTURES, high=0.5
    )
    zoom: float = records.setting(
        BY_PICTURES, f"zoom in or out by up to about this share; {_AUTO}", low=BY_PICTURES, high=1.0
    )
    brightness: float = records.setting(
        BY_PICTURES, f"brighter or darker by up to this share; {_AUTO}", low=BY_PICTURES, high=1.0
    )
    contrast: float = records.setting(
        BY_PICTURES, f"more or less contrast by up to this share; {_AUTO}", low=BY_PICTURES, high=1.0
    )
    hue: float = records.setting(0.0, "turn colours by up to this share of the circle", low=0.0, high=0.5)
    cutout: float = records.setting(0.0, "hide a square of this share of each side", low=0.0, high=0.9)
    mixup: float = records.setting(
        0.0, "blend pairs of pictures and labels, 0 off, 1 full", low=0.0, high=1.0
    )
    expand: int = records.setting(
        0, "write so many varied copies of each picture instead of varying in training", low=0, high=20
    )


def augment(shards_folder: Path, out: Path, settings: AugmentSettings, *, seed: int) -> Augmentation:
    """Decide the policy from the training part, draw preview.png, write extra shards if asked for.

    With `expand`, the copies hold the variation and the policy for training is empty.
    """
    shards = Shards.load(shards_folder)
    shape = feed.Shape(*preview.size(shards.median_height, shards.median_width), shards.channels, "stretch")
    pictures, labels = feed.read(shards_folder, shards.parts[TRAIN], shape, limit=MOST_LOOKED_AT)
    verdict = _flips(pictures, labels, shards, settings.flip, _photographs(shards))
    policy = _policy(settings, verdict.is_safe, strengths(shards))
    out.mkdir(parents=True, exist_ok=True)
    preview.draw(pictures, labels, shards.labels, policy, out, seed=seed)
    extra: Part | None = None
    if settings.expand:
        extra = expand.write(shards_folder, shards, policy, out, copies=settings.expand, seed=seed)
    augmentation = Augmentation({} if extra else policy, extra, verdict.why)
    augmentation.save(out)
    return augmentation


def no_variation() -> AugmentSettings:
    """Settings that leave every picture as it is."""
    zeros: dict[str, Any] = {f.name: 0 for f in dataclasses.fields(AugmentSettings) if f.name != "flip"}
    return AugmentSettings(flip="none", **zeros)


def _photographs(shards: Shards) -> bool:
    return shards.channels == 3 and min(shards.median_height, shards.median_width) >= PHOTOGRAPH


def _flips(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64], shards: Shards, asked: str, photographs: bool
) -> mirror.Verdict:
    if asked != "auto":
        return mirror.Verdict(asked in ("horizontal", "both"), f"the settings say flip = {asked}")
    thumbnails = images.resize(pictures, mirror.THUMBNAIL, mirror.THUMBNAIL).numpy()
    return mirror.judge(thumbnails, labels, shards.labels, photographs=photographs)


def strengths(shards: Shards) -> Mapping[str, float]:
    """Of what the settings leave open."""
    if _photographs(shards):
        return {**_STRENGTHS, variation.BRIGHTNESS: LIGHT[0], variation.CONTRAST: LIGHT[1]}
    is_small = min(shards.median_height, shards.median_width) < PHOTOGRAPH
    return _STRENGTHS_OF_MANY if is_small and shards.parts[TRAIN].num_images >= MANY else _STRENGTHS


def _policy(settings: AugmentSettings, horizontal: bool, own: Mapping[str, float]) -> Mapping[str, float]:
    asked = {
        variation.ROTATION: settings.rotation_degrees,
        variation.SHIFT: settings.shift,
        variation.ZOOM: settings.zoom,
        variation.BRIGHTNESS: settings.brightness,
        variation.CONTRAST: settings.contrast,
    }
    strengths = {
        variation.FLIP_HORIZONTAL: float(horizontal),
        variation.FLIP_VERTICAL: float(settings.flip in ("vertical", "both")),
        **{key: own.get(key, 0.0) if value < 0 else value for key, value in asked.items()},
        variation.HUE: settings.hue,
        variation.CUTOUT: settings.cutout,
        variation.MIXUP: settings.mixup,
    }
    return {key: value for key, value in strengths.items() if value}
