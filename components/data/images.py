"""The one way a picture becomes the network's input: a TensorFlow graph function.

Training, expanded shards and the exported model all call it, so what is served is what was
trained on. Pictures come out upright (EXIF orientation of JPEGs is applied in the graph), grey or
RGB, as uint8; scaling to floats belongs to the network.

Every size change is bilinear with antialiasing, rounded to whole grey levels. What happens to the
aspect is named by one of `ASPECTS`. The default, "stretch", keeps the whole picture: the network's
input has the median aspect of the training pictures, so most are hardly stretched at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from components.data import exif

if TYPE_CHECKING:
    import tensorflow as tf

ASPECTS = ("stretch", "crop", "pad")

MAX_PIXELS = 1 << 27  # 134 million: a picture that says it is larger is refused before it is decoded
PAD_GREY = 127

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode "L"


def load(contents: Any, height: int, width: int, channels: int, aspect: str = "stretch") -> tf.Tensor:
    """One encoded picture at the network's size: uint8 (height, width, channels).

    contents: string (), a JPEG, PNG, WebP, BMP or GIF file (its first frame).
    Raises INVALID_ARGUMENT where it runs for bytes that are no such picture.
    """
    return resize(decode(contents, channels), height, width, aspect)


def load_batch(contents: Any, height: int, width: int, channels: int, aspect: str = "stretch") -> tf.Tensor:
    """Encoded pictures at the network's size, string (N,) -> uint8 (N, height, width, channels)."""
    import tensorflow as tf

    signature = tf.TensorSpec((height, width, channels), tf.uint8)
    return tf.map_fn(
        lambda one: load(one, height, width, channels, aspect), contents, fn_output_signature=signature
    )


def decode(contents: Any, channels: int) -> tf.Tensor:
    """One encoded picture, upright, at its own size: string () -> uint8 (H, W, channels).

    channels: 1 for grey, 3 for RGB.  Transparent parts lie on white.
    Formats by their first bytes; anything else is refused with INVALID_ARGUMENT.
    """
    import tensorflow as tf

    if channels not in (1, 3):
        raise ValueError(f"A picture has 1 or 3 channels. Got {channels}.")
    kinds = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"GIF8")
    branches = (_decode_jpeg, _decode_png, _decode_webp, _decode_bmp, _decode_other)
    starts = tf.stack([tf.strings.substr(contents, 0, len(kind)) == kind for kind in kinds])
    kind = tf.where(tf.reduce_any(starts), tf.argmax(tf.cast(starts, tf.int32), output_type=tf.int32), 5)
    image = tf.switch_case(
        kind,
        [lambda branch=branch: branch(contents) for branch in branches],
        default=lambda: _decode_other(contents),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    return image if channels == 3 else to_grey(image)


def to_grey(image: Any) -> tf.Tensor:
    """Luma of RGB, uint8 (H, W, 3) -> uint8 (H, W, 1). A grey picture stays as it is."""
    import tensorflow as tf

    luma = tf.tensordot(tf.cast(image, tf.float32), tf.constant(_LUMA), 1)[..., tf.newaxis]
    return tf.cast(tf.round(luma), tf.uint8)


def resize(images: Any, height: int, width: int, aspect: str = "stretch") -> tf.Tensor:
    """Pictures at another size, uint8 (H, W, C) or (N, H, W, C) -> uint8 (…, height, width, C).

    aspect: "stretch" bends the picture to the new aspect, "crop" cuts the longer side off evenly,
    "pad" adds even grey bars.
    """
    import tensorflow as tf

    if aspect == "crop":
        images = _centre_crop(images, height, width)
    inner = _fitting(images, height, width) if aspect == "pad" else (height, width)
    small = tf.image.resize(images, inner, method="bilinear", antialias=True)
    small = tf.cast(tf.clip_by_value(tf.round(small), 0.0, 255.0), tf.uint8)
    if aspect == "pad":
        small = _pad(small, height, width)
    return tf.ensure_shape(small, (*images.shape[:-3], height, width, images.shape[-1]))


def _decode_jpeg(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    shape = tf.image.extract_jpeg_shape(contents)
    with tf.control_dependencies([_check_size(shape[0], shape[1])]):
        image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    return exif.turn_upright(image, exif.orientation(contents))


def _decode_png(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    head = tf.io.decode_raw(tf.strings.substr(contents, 0, 25), tf.uint8)
    size = exif.integers(head, tf.constant([16, 20]), 4, little=False)
    depth = exif.bytes_at(head, tf.constant(24))
    with tf.control_dependencies([_check_size(size[0], size[1])]):
        image = tf.io.decode_png(contents, channels=4)
    # TensorFlow gives an opaque picture of 1, 2 or 4 bits the alpha 1, 3 or 15 instead of 255.
    full = tf.bitwise.left_shift(1, tf.clip_by_value(depth, 1, 8)) - 1
    is_small = tf.reduce_max(tf.cast(image[..., 3], tf.int32)) <= full
    return _on_white(image, tf.where(is_small, full, 255))


def _decode_webp(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    frames = tf.ensure_shape(tf.io.decode_webp(contents), (None, None, None, None))
    image = frames[0]
    return tf.cond(tf.shape(image)[-1] == 4, lambda: _on_white(image), lambda: image)


def _decode_bmp(contents: Any) -> tf.Tensor:
    """TensorFlow reads a palette picture as if its indices were grey levels: look them up."""
    import tensorflow as tf

    head = tf.io.decode_raw(tf.strings.substr(contents, 0, 54 + 4096), tf.uint8)
    size = exif.integers(head, tf.constant([18, 22]), 4, little=True)
    bits = exif.integers(head, tf.constant([28]), 2, little=True)[0]
    with tf.control_dependencies([_check_size(tf.abs(size[0]), tf.abs(size[1]))]):
        image = tf.io.decode_bmp(contents)
    start = 14 + exif.integers(head, tf.constant([14]), 4, little=True)[0]

    def look_up() -> tf.Tensor:
        index = tf.cast(image[..., 0], tf.int32)[..., tf.newaxis]
        return tf.cast(exif.bytes_at(head, start + 4 * index + tf.constant([2, 1, 0])), tf.uint8)

    def true_colour() -> tf.Tensor:
        return image[..., :3]

    return tf.cond(bits == 8, look_up, true_colour)


def _decode_other(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _on_white(image: Any, opaque: Any = 255) -> tf.Tensor:
    import tensorflow as tf

    values = tf.cast(image, tf.float32)
    alpha = values[..., 3:] / tf.cast(opaque, tf.float32)
    return tf.cast(tf.round(values[..., :3] * alpha + 255.0 * (1.0 - alpha)), tf.uint8)


def _check_size(height: Any, width: Any) -> Any:
    import tensorflow as tf

    num_pixels = tf.cast(height, tf.float64) * tf.cast(width, tf.float64)
    return tf.debugging.assert_less_equal(
        num_pixels,
        tf.constant(MAX_PIXELS, tf.float64),
        message=f"The picture has more than {MAX_PIXELS} pixels. Make it smaller and send it again.",
    )


def _sides(images: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    shape = tf.cast(tf.shape(images)[-3:-1], tf.float32)
    return shape[0], shape[1]


def _centre_crop(images: Any, height: int, width: int) -> tf.Tensor:
    import tensorflow as tf

    tall, wide = _sides(images)
    scale = tf.minimum(tall / height, wide / width)
    keep_y = tf.maximum(1, tf.cast(tf.round(height * scale), tf.int32))
    keep_x = tf.maximum(1, tf.cast(tf.round(width * scale), tf.int32))
    top = (tf.cast(tall, tf.int32) - keep_y) // 2
    left = (tf.cast(wide, tf.int32) - keep_x) // 2
    return images[..., top : top + keep_y, left : left + keep_x, :]


def _fitting(images: Any, height: int, width: int) -> Any:
    import tensorflow as tf

    tall, wide = _sides(images)
    scale = tf.minimum(height / tall, width / wide)
    sides = tf.cast(tf.round(tf.stack([tall, wide]) * scale), tf.int32)
    return tf.clip_by_value(sides, 1, [height, width])


def _pad(images: Any, height: int, width: int) -> tf.Tensor:
    import tensorflow as tf

    shape = tf.shape(images)[-3:-1]
    spare = tf.constant([height, width]) - shape
    before = spare // 2
    bars = tf.stack([before, spare - before], axis=1)
    none = tf.zeros((1, 2), tf.int32)
    paddings = [none] * (images.shape.rank - 3) + [bars, none]
    return tf.pad(images, tf.concat(paddings, 0), constant_values=PAD_GREY)
