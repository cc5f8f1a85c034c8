"""Augmentation of image batches in the TensorFlow graph, with random numbers that depend only on the seed.

All geometric operations are one projective transform per image and all colour operations one 3x3 matrix, so a
batch takes two passes whatever the policy contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

FLIP_HORIZONTAL = "flip_horizontal"  # 1.0: half of the images are flipped
FLIP_VERTICAL = "flip_vertical"
ROTATION = "rotation_degrees"
SHIFT = "shift"
ZOOM = "zoom"
BRIGHTNESS = "brightness"
CONTRAST = "contrast"
HUE = "hue"
CUTOUT = "cutout"
MIXUP = "mixup"
KEYS = (
    FLIP_HORIZONTAL,
    FLIP_VERTICAL,
    ROTATION,
    SHIFT,
    ZOOM,
    BRIGHTNESS,
    CONTRAST,
    HUE,
    CUTOUT,
    MIXUP,
)

_GEOMETRY = (FLIP_HORIZONTAL, FLIP_VERTICAL, ROTATION, SHIFT, ZOOM)
_COLOUR = (BRIGHTNESS, CONTRAST, HUE)


def augment(images: Any, targets: Any, seed: Any, policy: Mapping[str, float]) -> tuple[tf.Tensor, tf.Tensor]:
    """An augmented batch: float32 (N, H, W, C) from 0 to 255, and its targets.

    images: uint8 (N, H, W, C).  targets: float32 (N, classes), one-hot.  seed: int (2,).
    policy: strengths by the names in KEYS; missing ones are off.  Equal arguments give equal batches.
    """
    import tensorflow as tf

    random = _Random(tf.shape(images)[0], seed)
    augmented = tf.cast(images, tf.float32)
    if any(policy.get(key) for key in _GEOMETRY):
        augmented = _transform(augmented, _random_transforms(augmented, policy, random))
    if any(policy.get(key) for key in _COLOUR):
        augmented = _adjust_colour(augmented, policy, random)
    if policy.get(CUTOUT):
        augmented = _cutout(augmented, policy[CUTOUT], random)
    if policy.get(MIXUP):
        augmented, targets = _mixup(augmented, targets, policy[MIXUP], random)
    return augmented, targets


class _Random:
    """Uniform random numbers, one per image; each call uses another stream of the same seed."""

    def __init__(self, num_images: Any, seed: Any) -> None:
        import tensorflow as tf

        self._num_images, self._seed, self._stream = num_images, tf.cast(seed, tf.int64), 0

    def __call__(self, low: float, high: float) -> tf.Tensor:
        import tensorflow as tf

        self._stream += 1
        stream = tf.stack([self._seed[0] + self._stream * 1_000_003, self._seed[1]])
        return tf.random.stateless_uniform((self._num_images,), stream, low, high)

    def sign(self) -> tf.Tensor:
        import tensorflow as tf

        return tf.where(self(0.0, 1.0) < 0.5, -1.0, 1.0)


def _random_transforms(images: Any, policy: Mapping[str, float], random: _Random) -> tf.Tensor:
    """From output to input coordinates, in the format of ImageProjectiveTransform: (N, 8)."""
    import tensorflow as tf

    shape = tf.cast(tf.shape(images), tf.float32)
    height, width = shape[1], shape[2]
    angle = random(-1.0, 1.0) * (policy.get(ROTATION, 0.0) * 3.141592653589793 / 180.0)
    zoom = tf.exp(random(-1.0, 1.0) * policy.get(ZOOM, 0.0))
    flip_x = random.sign() if policy.get(FLIP_HORIZONTAL) else tf.ones_like(angle)
    flip_y = random.sign() if policy.get(FLIP_VERTICAL) else tf.ones_like(angle)
    shift_x = random(-1.0, 1.0) * policy.get(SHIFT, 0.0) * width
    shift_y = random(-1.0, 1.0) * policy.get(SHIFT, 0.0) * height
    if not policy.get(ROTATION) and not policy.get(ZOOM):  # whole pixels, so that nothing is blurred
        shift_x, shift_y = tf.round(shift_x), tf.round(shift_y)
    return _matrix(angle, zoom, flip_x, flip_y, shift_x, shift_y, (height - 1) / 2, (width - 1) / 2)


def _matrix(
    angle: Any, zoom: Any, flip_x: Any, flip_y: Any, shift_x: Any, shift_y: Any, mid_y: Any, mid_x: Any
) -> tf.Tensor:
    """Rotate, zoom and flip about the centre, then shift."""
    import tensorflow as tf

    a, b = tf.cos(angle) * zoom * flip_x, -tf.sin(angle) * zoom * flip_x
    d, e = tf.sin(angle) * zoom * flip_y, tf.cos(angle) * zoom * flip_y
    c = mid_x + shift_x - a * mid_x - b * mid_y
    f = mid_y + shift_y - d * mid_x - e * mid_y
    zero = tf.zeros_like(a)
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=1)


def _transform(images: Any, transforms: Any) -> tf.Tensor:
    """Transformed images; pixels from outside the image are reflected at its border."""
    import tensorflow as tf

    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return tf.ensure_shape(moved, images.shape)


def _adjust_colour(images: Any, policy: Mapping[str, float], random: _Random) -> tf.Tensor:
    """Brightness adds, contrast scales about the image's mean, hue rotates about the grey axis."""
    import tensorflow as tf

    gain = tf.exp(random(-1.0, 1.0) * policy.get(CONTRAST, 0.0))[:, None, None, None]
    offset = (random(-1.0, 1.0) * policy.get(BRIGHTNESS, 0.0) * 255.0)[:, None, None, None]
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    if images.shape[-1] == 3 and policy.get(HUE):
        rotation = _hue_matrices(random(-1.0, 1.0) * policy[HUE] * 6.283185307179586)
        flat = tf.reshape(images, (tf.shape(images)[0], -1, 3))
        images = tf.reshape(tf.matmul(flat, rotation, transpose_b=True), tf.shape(images))
    return tf.clip_by_value((images - mean) * gain + mean + offset, 0.0, 255.0)


def _hue_matrices(angle: Any) -> tf.Tensor:
    """Rotations of RGB about (1, 1, 1), (N,) radians -> (N, 3, 3): Rodrigues' formula."""
    import tensorflow as tf

    cos, sin = tf.cos(angle)[:, None, None], tf.sin(angle)[:, None, None]
    cross = tf.constant([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / 3.0**0.5
    return cos * tf.eye(3) + sin * cross + (1.0 - cos) * tf.fill((3, 3), 1.0 / 3.0)


def _cutout(images: Any, share: float, random: _Random) -> tf.Tensor:
    """Images with a rectangle of `share` of each side, at a random place, filled with the image's mean."""
    import tensorflow as tf

    shape = tf.shape(images)
    half_y, half_x = (tf.cast(shape[k], tf.float32) * share / 2 for k in (1, 2))
    mid_y, mid_x = (random(0.0, 1.0)[:, None] * tf.cast(shape[k], tf.float32) for k in (1, 2))
    rows = tf.abs(tf.range(shape[1], dtype=tf.float32)[None] + 0.5 - mid_y) < half_y
    columns = tf.abs(tf.range(shape[2], dtype=tf.float32)[None] + 0.5 - mid_x) < half_x
    hole = (rows[:, :, None] & columns[:, None, :])[..., None]
    return tf.where(hole, tf.reduce_mean(images, (1, 2, 3), keepdims=True), images)


def _mixup(images: Any, targets: Any, strength: float, random: _Random) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image blended with up to half of `strength` of the next one (mixup, Zhang et al., 2018)."""
    import tensorflow as tf

    share = random(0.0, 0.5) * strength
    other = share[:, None, None, None]
    images = images * (1.0 - other) + tf.roll(images, 1, 0) * other
    targets = targets * (1.0 - share[:, None]) + tf.roll(targets, 1, 0) * share[:, None]
    return images, targets
