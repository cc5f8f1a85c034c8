"""Decodes and resizes images to the network's input, in the TensorFlow graph.

The exported model decodes whatever is sent; training and offline augmentation decode what shards hold, with
the same operations, so what is served is what was trained on. Images come out upright (EXIF orientation is
applied in the graph), grey or RGB, as uint8; scaling to floats belongs to the network.

Images are resized bilinearly with antialiasing and rounded to integers. One of `ASPECTS` says how the
aspect ratio is handled. The default, "stretch", keeps the whole image: the network's input has the
median aspect ratio of the training images, so most are hardly distorted.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from pergola.components.imaging import bmp, exif, gif, headers
from pergola.serving.wire.images import MAX_PIXELS, ODD_EXIF

if TYPE_CHECKING:
    import tensorflow as tf

ASPECTS = ("stretch", "crop", "pad")

PAD_GREY = 127
_PNG_ALPHA = 4  # the colour types from here on may have transparent parts without a chunk tRNS
# A chunk tRNS with its length, not a text that names it. If asked for an alpha channel that libpng does not
# find, TensorFlow makes pixels of fewer than 8 bits faint.
_PNG_CLEAR = r"\C*\x00\x00[\x00\x01]\CtRNS\C*"
_PNG_CLEAR_GREY = r"\C*\x00\x00\x00\x02tRNS\C*"
_PNG_CLEAR_RGB = r"\C*\x00\x00\x00\x06tRNS\C*"
_PNG_CLEAR_COLOURS = r"\C*\x00\x00([\x00-\x03]\C)PLTE\C*\x00\x00([\x00\x01]\C)tRNS\C*"  # two lengths
_PNG_ODD_EXIF = r"\C*(?:" + "|".join(re.escape(name.decode()) for name in ODD_EXIF) + r")\C*"
_PNG_EXTRAS = r"\C*(?:eXIf|tRNS|tiff:Orientation|" + _PNG_ODD_EXIF[6:]

_FIRST_BYTES = (b"\xff", b"\x89", b"R", b"B", b"G")  # of JPEG, PNG, WebP, BMP, GIF
_ODD_EXIF = "A PNG with EXIF data in a text chunk. Use pergola's client, or save the image without EXIF data."
_CLEAR_16 = "A PNG of 16 bits with a transparent colour. Use pergola's client, or save it with 8 bits."
_CLEAR_ODD = "A PNG whose tRNS chunk has a wrong length. Use pergola's client, or save the image again."
_UNKNOWN = "Not an image that is decoded here: expected JPEG, PNG, WebP, BMP or GIF."
_EIGHT = np.uint16(8)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's mode "L"


def load(
    contents: Any,
    height: int,
    width: int,
    channels: int,
    aspect: str = "stretch",
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """An encoded image at the network's input size: uint8 (height, width, channels).

    contents: string (), a JPEG, PNG, WebP, BMP or GIF file (its first frame).
    The graph raises INVALID_ARGUMENT for bytes that are not such an image, or of one that is too large.
    """
    return resize(decode(contents, channels, max_pixels), height, width, aspect)


def load_prepared(
    contents: Any, height: int, width: int, channels: int, aspect: str = "stretch"
) -> tf.Tensor:
    """What `load` gives, for a file that `prepare` of serving/wire/images.py wrote or left as it is.

    Such files, as in shards, are upright, opaque and of three formats. The graph is small: that of `load`
    takes seconds to trace, and again to start each dataset that maps it.
    """
    return resize(decode_prepared(contents, channels), height, width, aspect)


def load_batch(
    contents: Any,
    height: int,
    width: int,
    channels: int,
    aspect: str = "stretch",
    max_pixels: int = MAX_PIXELS,
) -> tf.Tensor:
    """Encoded images at the network's input size, string (N,) -> uint8 (N, height, width, channels)."""
    import tensorflow as tf

    signature = tf.TensorSpec((height, width, channels), tf.uint8)
    return tf.map_fn(
        lambda one: load(one, height, width, channels, aspect, max_pixels),
        contents,
        fn_output_signature=signature,
    )


def decode(contents: Any, channels: int, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
    """An encoded image, upright, at its own size: string () -> uint8 (H, W, channels).

    channels: 1 for grey, 3 for RGB.  max_pixels: an image that says it has more is not decoded.
    Transparent pixels are blended with white.
    The format is detected by the first bytes; anything else is refused with INVALID_ARGUMENT.
    """
    if channels not in (1, 3):
        raise ValueError(f"An image has 1 or 3 channels. Got {channels}.")
    return _decoder(channels, max_pixels)(contents)


def decode_prepared(contents: Any, channels: int) -> tf.Tensor:
    """What `decode` gives, for a file as `load_prepared` takes it."""
    import tensorflow as tf

    def webp_pixels(contents: Any) -> tf.Tensor:
        return tf.io.decode_webp(contents, channels=3)[0]

    decoders = (_jpeg_pixels, functools.partial(tf.io.decode_png, channels=3), webp_pixels)
    first = tf.strings.substr(contents, 0, 1)
    kind = tf.where(tf.equal(first, b"\xff"), 0, tf.where(tf.equal(first, b"\x89"), 1, 2))
    image = tf.switch_case(kind, [functools.partial(decoder, contents) for decoder in decoders])
    image = tf.ensure_shape(image, (None, None, 3))
    return image if channels == 3 else to_grey(image)


@functools.cache
def _decoder(channels: int, max_pixels: int) -> Any:
    """The decode function, traced once per process, because tracing takes a second."""
    import tensorflow as tf

    def decoded(contents: Any) -> tf.Tensor:
        image = _decode_rgb(contents, max_pixels)
        return image if channels == 3 else to_grey(image)

    return tf.function(decoded, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


def _decode_rgb(contents: Any, max_pixels: int) -> tf.Tensor:
    import tensorflow as tf

    def limited(decoder: Any) -> Any:
        return functools.partial(decoder, max_pixels=max_pixels)

    # Called, not inlined: each operation of a branch that is not taken would cost time for every JPEG.
    others = [_called(limited(one)) for one in (_decode_png, _decode_webp, bmp.decode, _decode_gif)]
    decoders = (limited(_decode_jpeg), *others, _called(_refuse_unknown))
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


def _decode_jpeg(contents: Any, max_pixels: int) -> tf.Tensor:
    import tensorflow as tf

    size = tf.image.extract_jpeg_shape(contents)[:2]
    with tf.control_dependencies([headers.check_size(size, max_pixels)]):
        image = _jpeg_pixels(contents)
    return exif.upright(image, contents)


def _jpeg_pixels(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    return tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(contents: Any, max_pixels: int) -> tf.Tensor:
    import tensorflow as tf

    head = headers.head(contents, 26)
    size = tf.io.decode_raw(tf.strings.substr(head, 16, 8), tf.int32, little_endian=False)
    depth_and_kind = tf.cast(tf.io.decode_raw(tf.strings.substr(head, 24, 2), tf.uint8), tf.int32)
    depth, kind = depth_and_kind[0], depth_and_kind[1]
    with tf.control_dependencies([headers.check_size(size, max_pixels)]):
        contents = tf.identity(contents)

    def plain() -> tf.Tensor:
        return _png_pixels(contents, kind >= _PNG_ALPHA)

    def with_extras() -> tf.Tensor:
        before_pixels = tf.strings.split(contents, "IDAT", maxsplit=1)[0]
        clears = tf.strings.regex_full_match(before_pixels, _PNG_CLEAR) & (kind < _PNG_ALPHA)
        sound = _fits_colours(before_pixels, depth, kind)
        odd = tf.strings.regex_full_match(contents, _PNG_ODD_EXIF)
        with tf.control_dependencies(
            [
                _refuse(odd, _ODD_EXIF),
                _refuse(clears & ~sound, _CLEAR_ODD),
                _refuse(clears & (depth == 16), _CLEAR_16),
            ]
        ):
            image = _png_pixels(contents, clears | (kind >= _PNG_ALPHA))
        return exif.turn(image, exif.orientation_in_chunk(contents))

    # Searching the file once costs little; reading chunks would cost more than decoding a small image.
    return tf.cond(tf.strings.regex_full_match(contents, _PNG_EXTRAS), with_extras, plain)


def _fits_colours(before_pixels: Any, depth: Any, kind: Any) -> tf.Tensor:
    """Whether a PNG's chunk tRNS has the length that its colours want, bool ().

    libpng ignores one of another length, Pillow does not.
    """
    import tensorflow as tf

    found = tf.strings.substr(tf.strings.regex_replace(before_pixels, _PNG_CLEAR_COLOURS, r"\1\2"), 0, 4)
    lengths = tf.cast(tf.io.decode_raw(found, tf.uint16, little_endian=False), tf.int32)
    num_colours = tf.minimum(lengths[0] // 3, tf.bitwise.left_shift(1, depth))
    fits = (lengths[1] > 0) & (lengths[1] <= num_colours)
    patterns = (_PNG_CLEAR_GREY, "", _PNG_CLEAR_RGB, _PNG_CLEAR_COLOURS)  # by colour type
    matches = [tf.strings.regex_full_match(before_pixels, pattern) for pattern in patterns]
    return tf.gather([*matches[:3], matches[3] & fits], tf.minimum(kind, 3))


def _png_pixels(contents: Any, blends: Any) -> tf.Tensor:
    """The pixels, on white if `blends`."""
    import tensorflow as tf

    def transparent() -> tf.Tensor:
        return _on_white(tf.io.decode_png(contents, channels=4))

    return tf.cond(blends, transparent, lambda: tf.io.decode_png(contents, channels=3))


def _decode_webp(contents: Any, max_pixels: int) -> tf.Tensor:
    import tensorflow as tf

    with tf.control_dependencies(headers.check_webp(contents, max_pixels)):
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


def _decode_gif(contents: Any, max_pixels: int) -> tf.Tensor:
    import tensorflow as tf

    return tf.io.decode_image(gif.first_frame(contents, max_pixels), channels=3, expand_animations=False)


def _refuse_unknown(contents: Any) -> tf.Tensor:
    import tensorflow as tf

    with tf.control_dependencies([_refuse(tf.strings.length(contents) >= 0, _UNKNOWN)]):
        return tf.zeros((0, 0, 3), tf.uint8)


def _refuse(condition: Any, message: str) -> Any:
    import tensorflow as tf

    return tf.debugging.Assert(~condition, [message])


def _on_white(image: Any) -> tf.Tensor:
    """uint8 (H, W, 4) -> (H, W, 3), in integers of 16 bits: floats would take twice the memory."""
    import tensorflow as tf

    values = tf.cast(image, tf.uint16)
    alpha = values[..., 3:]
    blended = values[..., :3] * alpha + 255 * (255 - alpha) + 128
    # Divided by 255 and rounded, exactly (J. Blinn, "Three Wrongs Make a Right", 1995).
    divided = tf.bitwise.right_shift(blended + tf.bitwise.right_shift(blended, _EIGHT), _EIGHT)
    return tf.cast(divided, tf.uint8)


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
