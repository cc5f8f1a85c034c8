"""What the headers of image files say, checked with TensorFlow operations before a native decoder runs.

A size in a header costs memory before the first pixel is read, `tf.io.decode_webp` of TensorFlow 2.21.0
corrupts the heap on animations, and `tf.io.decode_gif` leaves transparent parts black. The checks raise
INVALID_ARGUMENT; `pergola.serving.wire.images.prepare` rewrites such files.

Sources: WebP container specification and RFC 6386, 9.1, and the WebP lossless specification, 3; GIF89a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

MAX_PIXELS = 1 << 27  # 134 million: an image with a larger size in its header is refused before it is decoded

WEBP_EXIF, WEBP_XMP, _WEBP_ANIMATION = 0x08, 0x04, 0x02  # flags of a VP8X header
_GIF_EXTENSION, _GIF_GRAPHIC_CONTROL, _GIF_FRAME = 0x21, 0xF9, 0x2C
_GIF_MAX_BLOCKS = 1 << 14  # before the first frame; comments and profiles come in blocks of 255 bytes
_NO_GIF = (
    "A GIF whose first frame has transparent parts or is smaller than its canvas. Save it as PNG, or send it "
    "with pergola's client, which does that."
)


def head(contents: Any, num_bytes: int) -> tf.Tensor:
    """The first bytes, padded with zeros, so that the decoder reports a file that is too short."""
    import tensorflow as tf

    start = tf.strings.substr(contents, 0, num_bytes)
    return tf.strings.substr(tf.strings.join([start, b"\0" * num_bytes]), 0, num_bytes)


def check_size(size: Any) -> Any:
    """Fails for int32 (height, width) of too many pixels."""
    import tensorflow as tf

    num_pixels = tf.reduce_prod(tf.cast(size, tf.float32))
    message = f"The image has more than {MAX_PIXELS} pixels. Make it smaller and send it again."
    return tf.debugging.Assert(num_pixels <= MAX_PIXELS, [message])


def webp_flags(contents: Any) -> tf.Tensor:
    """The flags of a WebP's VP8X header, int32 (); 0 when it has none."""
    import tensorflow as tf

    start = head(contents, 21)
    is_extended = tf.equal(tf.strings.substr(start, 12, 4), "VP8X")
    return tf.where(is_extended, _bytes(start)[20], 0)


def check_webp(contents: Any) -> list[Any]:
    """Fails for a WebP that is an animation, of one frame too, or has too many pixels."""
    import tensorflow as tf

    start = head(contents, 30)
    data, kind = _bytes(start), tf.strings.substr(start, 12, 4)
    sizes = {
        "VP8X": 1 + tf.stack([_little(data, 24, 3), _little(data, 27, 3)]),
        "VP8 ": tf.stack([_little(data, 26), _little(data, 28)]) & 0x3FFF,
        "VP8L": 1 + (tf.stack([_little(data, 21), _little(data, 22, 3) // 64]) & 0x3FFF),
    }
    is_kind = tf.equal(kind, tf.constant(list(sizes)))
    size = tf.reduce_sum(tf.where(is_kind[:, tf.newaxis], tf.stack(list(sizes.values())), 0), 0)
    moves = (webp_flags(contents) & _WEBP_ANIMATION) != 0
    message = "An animated WebP. Send its first frame, or use pergola's client, which does that."
    unknown = "A WebP must start with a chunk VP8, VP8L or VP8X."
    return [
        check_size(size),
        tf.debugging.Assert(~moves, [message]),
        tf.debugging.Assert(tf.reduce_any(is_kind), [unknown]),
    ]


def check_gif(contents: Any) -> list[Any]:
    """Fails for a GIF of too many pixels, or one whose first frame leaves parts of its canvas open."""
    import tensorflow as tf

    screen = _bytes(head(contents, 13))
    size = tf.stack([_little(screen, 6), _little(screen, 8)])
    start = 13 + tf.where(screen[10] >= 0x80, tf.bitwise.left_shift(6, screen[10] & 7), 0)
    padded = tf.strings.join([contents, b"\0" * 16])
    place, is_transparent = _gif_frame(padded, start)
    frame = _bytes(tf.strings.substr(padded, tf.minimum(place, tf.strings.length(contents)), 9))
    inner = tf.stack([_little(frame, k) for k in (1, 3, 5, 7)])
    fills = tf.reduce_all(tf.equal(inner, tf.concat([[0, 0], size], 0)))
    is_plain = (frame[0] == _GIF_FRAME) & fills & ~is_transparent
    return [check_size(size), tf.debugging.Assert(is_plain, [_NO_GIF])]


def _gif_frame(padded: Any, start: Any) -> tuple[Any, Any]:
    """Where the first frame begins, and whether the extensions before it name a transparent colour.

    padded: a file, and 16 zeros.  start: of the blocks, behind the global palette.
    """
    import tensorflow as tf

    end = tf.strings.length(padded) - 16

    def at(place: Any) -> Any:
        return _bytes(tf.strings.substr(padded, tf.minimum(place, end), 4))

    def more(place: Any, inside: Any, _: Any, count: Any) -> Any:
        return (place < end) & (count < _GIF_MAX_BLOCKS) & (inside | (at(place)[0] == _GIF_EXTENSION))

    def step(place: Any, inside: Any, is_transparent: Any, count: Any) -> tuple[Any, Any, Any, Any]:
        data = at(place)
        names_one = ~inside & (data[1] == _GIF_GRAPHIC_CONTROL) & ((data[3] & 1) != 0)
        place_after = place + tf.where(inside, 1 + data[0], 2)
        return place_after, ~inside | (data[0] != 0), is_transparent | names_one, count + 1

    state = (start, tf.constant(False), tf.constant(False), tf.constant(0))
    place, _, is_transparent, _ = tf.while_loop(more, step, state)
    return place, is_transparent


def _bytes(text: Any) -> tf.Tensor:
    import tensorflow as tf

    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32)


def _little(data: Any, start: int, num_bytes: int = 2) -> Any:
    """An unsigned integer, the least significant byte first: int32 (N,) -> int32 ()."""
    return sum(data[start + k] * (1 << (8 * k)) for k in range(num_bytes))
