"""How training images are varied: the policy, a contact sheet of it, and extra shards if asked for.

Only the training part is ever touched: validation and test images stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pergola.components import records
from pergola.components.artifacts.data import TRAIN, Part, Shards
from pergola.components.artifacts.training import Augmentation
from pergola.components.imaging import decode
from pergola.components.training.augmentation import flip_safety, preview
from pergola.components.training.augmentation import offline as expand
from pergola.components.training.input import augmentation_ops, feed

MOST_LOOKED_AT = 2000  # training images by which mirroring is judged
PHOTOGRAPH = 64  # pixels of a median side from which on colour images are taken for photographs
BY_IMAGES = -1.0
MANY = 10_000  # small images from which on they vary enough by themselves for the few passes they get
FAINT = (0.1, 0.1)  # brightness and contrast
LIGHT = (0.3, 0.2)  # those of photographs, whose light differs: see docs/trust.md
_AUTO = "-1: by the images"
_STRENGTHS = {
    augmentation_ops.ROTATION: 10.0,
    augmentation_ops.SHIFT: 0.08,
    augmentation_ops.ZOOM: 0.1,
    augmentation_ops.BRIGHTNESS: FAINT[0],
    augmentation_ops.CONTRAST: FAINT[1],
}
_STRENGTHS_OF_MANY = {augmentation_ops.SHIFT: 0.06}


@dataclass(frozen=True)
class AugmentSettings:
    """How training images are varied (never validation or test images)."""

    flip: str = records.setting(
        "auto",
        "mirror half of the images; auto: left to right, unless that makes another class of them",
        choices=("auto", "none", "horizontal", "vertical", "both"),
    )
    rotation_degrees: float = records.setting(
        BY_IMAGES, f"turn by up to so many degrees; {_AUTO}", low=BY_IMAGES, high=180.0
    )
    shift: float = records.setting(
        BY_IMAGES, f"shift by up to this share of a side; {_AUTO}", low=BY_IMAGES, high=0.5
    )
    zoom: float = records.setting(
        BY_IMAGES, f"zoom in or out by up to about this share; {_AUTO}", low=BY_IMAGES, high=1.0
    )
    brightness: float = records.setting(
        BY_IMAGES, f"brighter or darker by up to this share; {_AUTO}", low=BY_IMAGES, high=1.0
    )
    contrast: float = records.setting(
        BY_IMAGES, f"more or less contrast by up to this share; {_AUTO}", low=BY_IMAGES, high=1.0
    )
    hue: float = records.setting(0.0, "turn colours by up to this share of the circle", low=0.0, high=0.5)
    cutout: float = records.setting(0.0, "hide a square of this share of each side", low=0.0, high=0.9)
    mixup: float = records.setting(0.0, "blend pairs of images and labels, 0 off, 1 full", low=0.0, high=1.0)
    expand: int = records.setting(
        0, "write so many varied copies of each image instead of varying in training", low=0, high=20
    )


def augment(shards_folder: Path, out: Path, settings: AugmentSettings, *, seed: int) -> Augmentation:
    """Decide the policy from the training part, draw preview.png, write extra shards if asked for.

    With `expand`, the copies hold the variation and the policy for training is empty.
    """
    shards = Shards.load(shards_folder)
    shape = feed.Shape(*preview.size(shards.median_height, shards.median_width), shards.channels, "stretch")
    images, labels = feed.read(shards_folder, shards.parts[TRAIN], shape, limit=MOST_LOOKED_AT)
    verdict = _flips(images, labels, shards, settings.flip, _photographs(shards))
    policy = _policy(settings, verdict.is_safe, strengths(shards))
    out.mkdir(parents=True, exist_ok=True)
    preview.draw(images, labels, shards.labels, policy, out, seed=seed)
    extra: Part | None = None
    if settings.expand:
        extra = expand.write(shards_folder, shards, policy, out, copies=settings.expand, seed=seed)
    augmentation = Augmentation({} if extra else policy, extra, verdict.why)
    augmentation.save(out)
    return augmentation


def no_variation() -> AugmentSettings:
    """Settings that leave every image as it is."""
    zeros: dict[str, Any] = {f.name: 0 for f in dataclasses.fields(AugmentSettings) if f.name != "flip"}
    return AugmentSettings(flip="none", **zeros)


def _photographs(shards: Shards) -> bool:
    return shards.channels == 3 and min(shards.median_height, shards.median_width) >= PHOTOGRAPH


def _flips(
    images: NDArray[np.uint8], labels: NDArray[np.int64], shards: Shards, asked: str, photographs: bool
) -> flip_safety.Verdict:
    if asked != "auto":
        return flip_safety.Verdict(asked in ("horizontal", "both"), f"the settings say flip = {asked}")
    thumbnails = decode.resize(images, flip_safety.THUMBNAIL, flip_safety.THUMBNAIL).numpy()
    return flip_safety.judge(thumbnails, labels, shards.labels, photographs=photographs)


def strengths(shards: Shards) -> Mapping[str, float]:
    """Of what the settings leave open."""
    if _photographs(shards):
        return {**_STRENGTHS, augmentation_ops.BRIGHTNESS: LIGHT[0], augmentation_ops.CONTRAST: LIGHT[1]}
    is_small = min(shards.median_height, shards.median_width) < PHOTOGRAPH
    return _STRENGTHS_OF_MANY if is_small and shards.parts[TRAIN].num_images >= MANY else _STRENGTHS


def _policy(settings: AugmentSettings, horizontal: bool, own: Mapping[str, float]) -> Mapping[str, float]:
    asked = {
        augmentation_ops.ROTATION: settings.rotation_degrees,
        augmentation_ops.SHIFT: settings.shift,
        augmentation_ops.ZOOM: settings.zoom,
        augmentation_ops.BRIGHTNESS: settings.brightness,
        augmentation_ops.CONTRAST: settings.contrast,
    }
    strengths = {
        augmentation_ops.FLIP_HORIZONTAL: float(horizontal),
        augmentation_ops.FLIP_VERTICAL: float(settings.flip in ("vertical", "both")),
        **{key: own.get(key, 0.0) if value < 0 else value for key, value in asked.items()},
        augmentation_ops.HUE: settings.hue,
        augmentation_ops.CUTOUT: settings.cutout,
        augmentation_ops.MIXUP: settings.mixup,
    }
    return {key: value for key, value in strengths.items() if value}
