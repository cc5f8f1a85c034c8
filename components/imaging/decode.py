"""Decodes and resizes images to the network's input, in the TensorFlow graph.

Training, offline augmentation and the exported model all call it, so what is served is what was
trained on. Images come out upright (EXIF orientation is applied in the graph), grey or
RGB, as uint8; scaling to floats belongs to the network.

Images are resized bilinearly with antialiasing and rounded to integers. One of `ASPECTS` says how the
aspect ratio is handled. The default, "stretch", keeps the whole image: the network's input has the
median aspect ratio of the training images, so most are hardly distorted.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from pergola.components.imaging import exif, headers
from pergola.serving.wire.images import ODD_EXIF

if TYPE_CHECKING:
    import tensorflow as tf

ASPECTS = ("stretch", "crop", "pad")

PAD_GREY = 127
_PNG_PALETTE = 3  # the colour types from here on may have transparent parts without a chunk tRNS
_PNG_ODD_EXIF = r"\C*(?:" + "|".join(re.escape(name.decode()) for name in ODD_EXIF) + r")\C*"
_PNG_EXTRAS = r"\C*(?:eXIf|tRNS|tiff:Orientation|" + _PNG_ODD_EXIF[6:]

_FIRST_BYTES = (b"\xff", b"\x89", b"R", b"B", b"G")  # of JPEG, PNG, WebP, BMP, GIF
_ODD_EXIF = "A PNG with EXIF data in a text chunk. Use pergola's client, or save the image without EXIF data."
_CLEAR_16 = "A PNG of 16 bits with a transparent colour. Use pergola's client, or save it with 8 bits."
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode "L"


def load(contents: Any, height: int, width: int, channels: int, aspect: str = "stretch") -> tf.Tensor:
    """An encoded image at the network's input size: uint8 (height, width, channels).

    contents: string (), a JPEG, PNG, WebP, BMP or GIF file (its first frame).
    The graph raises INVALID_ARGUMENT for bytes that are not such an image.
    """
    return resize(decode(contents, channels), height, width, aspect)


def load_batch(contents: Any, height: int, width: int, channels: int, aspect: str = "stretch") -> tf.Tensor:
    """Encoded images at the network's input size, string (N,) -> uint8 (N, height, width, channels)."""
    import tensorflow as tf

    signature = tf.TensorSpec((height, width, channels), tf.uint8)
    return tf.map_fn(
        lambda one: load(one, height, width, channels, aspect), contents, fn_output_signature=signature
    )


def decode(contents: Any, channels: int) -> tf.Tensor:
    """An encoded image, upright, at its own size: string () -> uint8 (H, W, channels).

    channels: 1 for grey, 3 for RGB.  Transparent pixels are blended with white.
    The format is detected by the first bytes; anything else is refused with INVALID_ARGUMENT.
    """
    if channels not in (1, 3):
        raise ValueError(f"An image has 1 or 3 channels. Got {channels}.")
    return _decoder(channels)(contents)


@functools.cache
def _decoder(channels: int) -> Any:
    """The decode function, traced once per process, because tracing takes a second."""
    import tensorflow as tf

    def decoded(contents: Any) -> tf.Tensor:
        image = _decode_rgb(contents)
        return image if channels == 3 else to_grey(image)

    return tf.function(decoded, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def _decode_rgb(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    # Called, not inlined: each operation of a branch that is not taken would cost time for every JPEG.
    others = (_decode_png, _decode_webp, _decode_bmp, _decode_gif, _decode_other)
    decoders = (_decode_jpeg, *(_called(decoder) for decoder in others))
    is_kind = tf.equal(tf.strings.substr(contents, 0, 1), tf.constant(_FIRST_BYTES))
    kind = tf.reduce_min(tf.where(is_kind, tf.range(len(_FIRST_BYTES)), len(_FIRST_BYTES)))
    image = tf.switch_case(kind, [functools.partial(decoder, contents) for decoder in decoders])
    return tf.ensure_shape(image, (None, None, 3))


def _called(decoder: Any) -> Any:
    import tensorflow as tf

    return tf.function(
        decoder,
        input_signature=[tf.TensorSpec((), tf.string)],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def to_grey(image: Any) -> tf.Tensor:
    """Luma of RGB, uint8 (H, W, 3) -> uint8 (H, W, 1). A grey image stays as it is."""
    import tensorflow as tf

    luma = tf.tensordot(tf.cast(image, tf.float32), tf.constant(_LUMA), 1)[..., tf.newaxis]
    return tf.cast(tf.round(luma), tf.uint8)


def resize(images: Any, height: int, width: int, aspect: str = "stretch") -> tf.Tensor:
    """Images at another size, uint8 (H, W, C) or (N, H, W, C) -> uint8 (…, height, width, C).

    aspect: "stretch" distorts the image to the new aspect ratio, "crop" crops the longer side at the centre,
    "pad" adds equal grey bars.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    if aspect == "crop":
        images = _centre_crop(images, height, width)
    inner = _fitting(images, height, width) if aspect == "pad" else (height, width)
    fits = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], inner))
    small = tf.cond(fits, lambda: images, lambda: _resampled(images, inner))
    if aspect == "pad":
        small = _pad(small, height, width)
    return tf.ensure_shape(small, (*images.shape[:-3], height, width, images.shape[-1]))


def _resampled(images: Any, size: Any) -> tf.Tensor:
    import tensorflow as tf

    values = tf.image.resize(images, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(values), 0.0, 255.0), tf.uint8)


def _decode_jpeg(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    with tf.control_dependencies([headers.check_size(tf.image.extract_jpeg_shape(contents)[:2])]):
        image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")
    return exif.upright(image, contents)


def _decode_png(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    head = headers.head(contents, 26)
    size = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    depth_and_kind = tf.cast(tf.io.decode_raw(tf.strings.substr(head, 24, 2), tf.uint8), tf.int32)
    depth, kind = depth_and_kind[0], depth_and_kind[1]
    with tf.control_dependencies([headers.check_size(size)]):
        contents = tf.identity(contents)

    def plain() -> tf.Tensor:
        return _png_pixels(contents, depth, kind >= _PNG_PALETTE, tf.constant(False))

    def with_extras() -> tf.Tensor:
        before_pixels = tf.strings.split(contents, "IDAT", maxsplit=1)[0]
        clears = tf.strings.regex_full_match(before_pixels, r"\C*tRNS\C*")
        odd = tf.strings.regex_full_match(contents, _PNG_ODD_EXIF)
        with tf.control_dependencies([_refuse(odd, _ODD_EXIF), _refuse(clears & (depth == 16), _CLEAR_16)]):
            image = _png_pixels(contents, depth, clears | (kind >= _PNG_PALETTE), clears)
        return exif.turn(image, exif.orientation_in_chunk(contents))

    # Searching the file once costs little; reading chunks would cost more than decoding a small image.
    return tf.cond(tf.strings.regex_full_match(contents, _PNG_EXTRAS), with_extras, plain)


def _png_pixels(contents: Any, depth: Any, blends: Any, clears: Any) -> tf.Tensor:
    """The pixels on white if `blends`. clears: whether a chunk tRNS has the values of alpha."""
    import tensorflow as tf

    def opaque() -> tf.Tensor:
        return tf.io.decode_png(contents, channels=3)

    def transparent() -> tf.Tensor:
        image = tf.io.decode_png(contents, channels=4)
        # TensorFlow gives an opaque palette image of 1, 2 or 4 bits the alpha 1, 3 or 15 for 255.
        full = tf.bitwise.left_shift(1, tf.minimum(depth, 8)) - 1
        is_small = tf.reduce_max(tf.cast(image[..., 3], tf.int32)) <= full
        return _on_white(image, tf.where(is_small & ~clears, full, 255))

    return tf.cond(blends, transparent, opaque)


def _decode_webp(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    with tf.control_dependencies(headers.check_webp(contents)):
        contents = tf.identity(contents)
    frames = tf.ensure_shape(tf.io.decode_webp(contents), (None, None, None, None))
    opaque = tf.cond(tf.shape(frames)[-1] == 4, lambda: _on_white(frames[0]), lambda: frames[0])
    opaque = tf.ensure_shape(opaque, (None, None, 3))
    flags = headers.webp_flags(contents)
    turn = tf.cond(
        (flags & (headers.WEBP_EXIF | headers.WEBP_XMP)) != 0,
        lambda: exif.orientation_in_chunk(contents),
        lambda: tf.constant(1),
    )
    return exif.turn(opaque, turn)


def _decode_bmp(contents: Any) -> tf.Tensor:
    """Looks up the colours of palette images: TensorFlow takes the indices for grey levels."""
    import tensorflow as tf

    head = headers.head(contents, 30)
    size = tf.io.decode_raw(tf.strings.substr(head, 18, 8), tf.int32)
    bits = tf.io.decode_raw(tf.strings.substr(head, 28, 2), tf.uint16)[0]
    with tf.control_dependencies([headers.check_size(tf.abs(size))]):
        image = tf.io.decode_bmp(contents)

    def look_up() -> tf.Tensor:
        start = 14 + tf.io.decode_raw(tf.strings.substr(head, 14, 4), tf.int32)[0]
        palette = tf.io.decode_raw(tf.strings.substr(contents, start, 1024), tf.uint8)
        return tf.gather(tf.reshape(palette, (-1, 4)), tf.cast(image[..., 0], tf.int32))[..., 2::-1]

    return tf.cond(tf.cast(bits, tf.int32) == 8, look_up, lambda: image[..., :3])


def _decode_gif(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    with tf.control_dependencies(headers.check_gif(contents)):
        return _decode_other(tf.identity(contents))


def _decode_other(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _refuse(condition: Any, message: str) -> Any:
    import tensorflow as tf

    return tf.debugging.Assert(~condition, [message])


def _on_white(image: Any, opaque: Any = 255) -> tf.Tensor:
    import tensorflow as tf

    values = tf.cast(image, tf.float32)
    alpha = values[..., 3:] / tf.cast(opaque, tf.float32)
    return tf.cast(tf.round(values[..., :3] * alpha + 255.0 * (1.0 - alpha)), tf.uint8)


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
