"""What the headers of image files say, checked with TensorFlow operations before a native decoder runs.

A size in a header costs memory before the first pixel is read, and `tf.io.decode_webp` of TensorFlow 2.21.0
corrupts the heap on animations. The checks raise INVALID_ARGUMENT; `pergola.serving.wire.images.prepare`
rewrites such files.

Sources: see `pergola.serving.wire.webp`, which reads the same for the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pergola.serving.wire import webp

if TYPE_CHECKING:
    import tensorflow as tf

WEBP_EXIF, WEBP_XMP = 0x08, 0x04  # flags of a VP8X header


def head(contents: Any, num_bytes: int) -> tf.Tensor:
    """The first bytes, padded with zeros, so that the decoder reports a file that is too short."""
    import tensorflow as tf

    start = tf.strings.substr(contents, 0, num_bytes)
    return tf.strings.substr(tf.strings.join([start, b"\0" * num_bytes]), 0, num_bytes)


def check_size(size: Any, max_pixels: int) -> Any:
    """Fails for int32 (height, width) of too many pixels, or of none."""
    import tensorflow as tf

    num_pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    is_fine = tf.reduce_all(size > 0) & (num_pixels <= max_pixels)
    message = f"The image has more than {max_pixels} pixels, or none. Make it smaller and send it again."
    return tf.debugging.Assert(is_fine, [message])


def webp_flags(contents: Any) -> tf.Tensor:
    """The flags of a WebP's VP8X header, int32 (); 0 when it has none."""
    import tensorflow as tf

    start = head(contents, 21)
    is_extended = tf.equal(tf.strings.substr(start, 12, 4), "VP8X")
    return tf.where(is_extended, read_bytes(start)[20], 0)


def check_webp(contents: Any, max_pixels: int) -> list[Any]:
    """Fails for a WebP that is an animation, of one frame too, is damaged or has too many pixels."""
    import tensorflow as tf

    start = head(contents, 30)
    data, kind = read_bytes(start), tf.strings.substr(start, 12, 4)
    sizes = {
        "VP8X": 1 + tf.stack([little(data, 24, 3), little(data, 27, 3)]),
        "VP8 ": tf.stack([little(data, 26), little(data, 28)]) & 0x3FFF,
        "VP8L": 1 + (tf.stack([little(data, 21), little(data, 22, 3) // 64]) & 0x3FFF),
    }
    is_kind = tf.equal(kind, tf.constant(list(sizes)))
    size = tf.reduce_sum(tf.where(is_kind[:, tf.newaxis], tf.stack(list(sizes.values())), 0), 0)
    moves = (webp_flags(contents) & webp.ANIMATION) != 0
    message = "An animated WebP. Send its first frame, or use pergola's client, which does that."
    unknown = "A WebP must start with a chunk VP8, VP8L or VP8X."
    damaged = "A WebP whose chunks do not end where its header says. Send it with pergola's client."
    return [
        check_size(size, max_pixels),
        tf.debugging.Assert(~moves, [message]),
        tf.debugging.Assert(tf.reduce_any(is_kind), [unknown]),
        tf.debugging.Assert(_has_sound_chunks(contents, 8 + little(data, 4, 4)), [damaged]),
    ]


def _has_sound_chunks(contents: Any, end: Any) -> tf.Tensor:
    """Whether the chunks of a WebP, one behind the other, end at `end`, and the file not before."""
    import tensorflow as tf

    def more(place: Any, count: Any) -> Any:
        return (place >= 12) & (place + 8 <= end) & (count < webp.MAX_CHUNKS)

    def step(place: Any, count: Any) -> tuple[Any, Any]:
        length = little(bytes_at(contents, place + 4, 4), 0, 4)
        return tf.where(length < 0, -1, place + 8 + length + length % 2), count + 1

    is_complete = (end >= 20) & (end <= tf.strings.length(contents))
    place, _ = tf.while_loop(lambda *at: is_complete & more(*at), step, (tf.constant(12), tf.constant(0)))
    return is_complete & tf.equal(place, end)


def bytes_at(contents: Any, place: Any, num_bytes: int) -> tf.Tensor:
    """Some bytes of a file as int32 (num_bytes,), zeros outside of it."""
    import tensorflow as tf

    # A place outside of a text is an error whose message would hold the whole file.
    inside = tf.clip_by_value(place, 0, tf.strings.length(contents))
    return read_bytes(head(tf.strings.substr(contents, inside, num_bytes), num_bytes))


def read_bytes(text: Any) -> tf.Tensor:
    """The bytes of a text, int32 (N,)."""
    import tensorflow as tf

    return tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32)


def little(data: Any, start: int, num_bytes: int = 2) -> Any:
    """An unsigned integer, the least significant byte first: int32 (N,) -> int32 ()."""
    return sum(data[start + k] * (1 << (8 * k)) for k in range(num_bytes))
