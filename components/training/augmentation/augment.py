"""The augmentation policy of the training images, its preview, and offline augmentation if requested.

Only the training split is augmented: validation and test images are never changed.
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
from pergola.components.artifacts.data import TRAIN, Shards, SplitShards
from pergola.components.artifacts.training import Augmentation
from pergola.components.imaging import decode
from pergola.components.training.augmentation import flip_safety, offline, preview
from pergola.components.training.input import augmentation_ops
from pergola.components.training.input.images import ImageShape, read_split

MAX_INSPECTED = 2000  # training images with which flips are checked
PHOTOGRAPH = 64  # pixels of the shorter median side from which on colour images are taken for photographs
BY_IMAGES = -1.0
MANY = 10_000  # small images: so many need little augmentation for the few epochs they get
FAINT = (0.1, 0.1)  # brightness and contrast
LIGHT = (0.3, 0.2)  # for photographs, which differ in light: see docs/trust.md
_AUTO = "-1: from the images"
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
    """Augmentation of the training images (never of validation or test images)."""

    flip: str = records.setting(
        "auto",
        "flip half of the images; auto: horizontally, unless that turns one class into another",
        choices=("auto", "none", "horizontal", "vertical", "both"),
    )
    rotation_degrees: float = records.setting(
        BY_IMAGES, f"rotate by up to this many degrees; {_AUTO}", low=BY_IMAGES, high=180.0
    )
    shift: float = records.setting(
        BY_IMAGES, f"shift by up to this share of a side; {_AUTO}", low=BY_IMAGES, high=0.5
    )
    zoom: float = records.setting(
        BY_IMAGES, f"zoom in or out by up to about this share; {_AUTO}", low=BY_IMAGES, high=1.0
    )
    brightness: float = records.setting(
        BY_IMAGES, f"change brightness by up to this share; {_AUTO}", low=BY_IMAGES, high=1.0
    )
    contrast: float = records.setting(
        BY_IMAGES, f"change contrast by up to this share; {_AUTO}", low=BY_IMAGES, high=1.0
    )
    hue: float = records.setting(
        0.0, "rotate hue by up to this share of the colour circle", low=0.0, high=0.5
    )
    cutout: float = records.setting(
        0.0, "cutout: mask a rectangle of this share of each side", low=0.0, high=0.9
    )
    mixup: float = records.setting(
        0.0, "mixup: blend pairs of images and labels; 0: off, 1: full strength", low=0.0, high=1.0
    )
    expand: int = records.setting(
        0,
        "offline augmentation: augmented copies of each image to write instead of augmenting in training",
        low=0,
        high=20,
    )


def augment(shards_folder: Path, out: Path, settings: AugmentSettings, *, seed: int) -> Augmentation:
    """Choose the policy from the training split, draw preview.png, write augmented shards if requested.

    With `expand`, the copies are already augmented and the policy for training is empty.
    """
    shards = Shards.load(shards_folder)
    shape = ImageShape(*preview.size(shards.median_height, shards.median_width), shards.channels, "stretch")
    images, labels = read_split(shards_folder, shards.splits[TRAIN], shape, limit=MAX_INSPECTED)
    verdict = _flips(images, labels, shards, settings.flip)
    policy = _policy(settings, verdict.is_safe, strengths(shards))
    out.mkdir(parents=True, exist_ok=True)
    preview.draw(images, labels, shards.labels, policy, out, seed=seed)
    extra: SplitShards | None = None
    if settings.expand:
        extra = offline.write(shards_folder, shards, policy, out, copies=settings.expand, seed=seed)
    augmentation = Augmentation({} if extra else policy, extra, verdict.why)
    augmentation.save(out)
    return augmentation


def no_augmentation() -> AugmentSettings:
    """Settings that switch every operation off."""
    zeros: dict[str, Any] = {f.name: 0 for f in dataclasses.fields(AugmentSettings) if f.name != "flip"}
    return AugmentSettings(flip="none", **zeros)


no_variation = no_augmentation  # the old name, until all callers have the new one


def _are_photographs(shards: Shards) -> bool:
    return shards.channels == 3 and min(shards.median_height, shards.median_width) >= PHOTOGRAPH


def _flips(
    images: NDArray[np.uint8], labels: NDArray[np.int64], shards: Shards, flip: str
) -> flip_safety.Verdict:
    if flip != "auto":
        return flip_safety.Verdict(flip in ("horizontal", "both"), f"set by augment.flip = {flip}")
    thumbnails = decode.resize(images, flip_safety.THUMBNAIL, flip_safety.THUMBNAIL).numpy()
    photographs = _are_photographs(shards)
    return flip_safety.check(thumbnails, labels, shards.labels, photographs=photographs)


def strengths(shards: Shards) -> Mapping[str, float]:
    """The strengths that apply where a setting is left open."""
    if _are_photographs(shards):
        return {**_STRENGTHS, augmentation_ops.BRIGHTNESS: LIGHT[0], augmentation_ops.CONTRAST: LIGHT[1]}
    is_small = min(shards.median_height, shards.median_width) < PHOTOGRAPH
    return _STRENGTHS_OF_MANY if is_small and shards.splits[TRAIN].num_images >= MANY else _STRENGTHS


def _policy(
    settings: AugmentSettings, horizontal: bool, defaults: Mapping[str, float]
) -> Mapping[str, float]:
    given = {
        augmentation_ops.ROTATION: settings.rotation_degrees,
        augmentation_ops.SHIFT: settings.shift,
        augmentation_ops.ZOOM: settings.zoom,
        augmentation_ops.BRIGHTNESS: settings.brightness,
        augmentation_ops.CONTRAST: settings.contrast,
    }
    strengths = {
        augmentation_ops.FLIP_HORIZONTAL: float(horizontal),
        augmentation_ops.FLIP_VERTICAL: float(settings.flip in ("vertical", "both")),
        **{key: defaults.get(key, 0.0) if value < 0 else value for key, value in given.items()},
        augmentation_ops.HUE: settings.hue,
        augmentation_ops.CUTOUT: settings.cutout,
        augmentation_ops.MIXUP: settings.mixup,
    }
    return {key: value for key, value in strengths.items() if value}
