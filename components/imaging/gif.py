"""The first frame of a GIF, cut out with TensorFlow operations.

`tf.io.decode_gif` reads all frames, whatever sizes they claim, and leaves transparent parts black. So it gets
a file of one frame that fills its canvas, or nothing. Source: GIF89a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pergola.components.imaging import headers

if TYPE_CHECKING:
    import tensorflow as tf

_EXTENSION, _GRAPHIC_CONTROL, _FRAME = 0x21, 0xF9, 0x2C
_MAX_BLOCKS = 1 << 14  # comments, profiles and pixels come in blocks of 255 bytes, runs of which count as one
_OPEN_CANVAS = (
    "A GIF whose first frame has transparent parts or is smaller than its canvas. Save it as PNG, or send it "
    "with pergola's client, which does that."
)
_NO_FRAME = "A GIF whose first frame is incomplete."


def first_frame(contents: Any, max_pixels: int) -> tf.Tensor:
    """A GIF, string (), up to the end of its first frame.

    Fails for one of too many pixels, or whose first frame is incomplete or leaves parts of its canvas open.
    """
    import tensorflow as tf

    screen = headers.bytes_at(contents, 0, 13)
    size = tf.stack([headers.little(screen, 6), headers.little(screen, 8)])
    data = tf.concat([tf.io.decode_raw(contents, tf.uint8), tf.zeros(16, tf.uint8)], 0)
    place, is_transparent, count = _find_frame(data, 13 + _palette_bytes(screen[10]))
    frame = _at(data, place, 10)
    inner = tf.stack([headers.little(frame, k) for k in (1, 3, 5, 7)])
    fills = tf.reduce_all(tf.equal(inner, tf.concat([[0, 0], size], 0)))
    end, _ = _skip_blocks(data, place + 11 + _palette_bytes(frame[9]), count)
    is_frame = tf.equal(frame[0], _FRAME) & tf.strings.regex_full_match(contents, r"GIF8[79]a\C*")
    checks = [
        headers.check_size(size, max_pixels),
        tf.debugging.Assert(fills & ~is_transparent | ~is_frame, [_OPEN_CANVAS]),
        tf.debugging.Assert(is_frame & (end < tf.strings.length(contents)), [_NO_FRAME]),
    ]
    with tf.control_dependencies(checks):
        return tf.strings.join([tf.strings.substr(contents, 0, tf.minimum(end + 1, _length(data))), b";"])


def _palette_bytes(flags: Any) -> Any:
    import tensorflow as tf

    return tf.where(flags >= 0x80, tf.bitwise.left_shift(6, flags & 7), 0)


def _length(data: Any) -> Any:
    """Of the file, without the zeros behind it."""
    import tensorflow as tf

    return tf.size(data) - 16


def _at(data: Any, place: Any, num_bytes: int) -> Any:
    """int32 (num_bytes,): bytes of a file; zeros behind its end."""
    import tensorflow as tf

    start = tf.minimum(place, _length(data))
    return tf.cast(data[start : start + num_bytes], tf.int32)


def _find_frame(data: Any, start: Any) -> tuple[Any, Any, Any]:
    """Where the first frame begins, and whether the extensions before it name a transparent colour.

    data: uint8, a file and 16 zeros.  start: of the extensions, behind the global palette.
    The third is the number of blocks that were read.
    """
    import tensorflow as tf

    def more(place: Any, _: Any, count: Any) -> Any:
        return (count < _MAX_BLOCKS) & tf.equal(_at(data, place, 1)[0], _EXTENSION)

    def step(place: Any, is_transparent: Any, count: Any) -> tuple[Any, Any, Any]:
        head = _at(data, place, 4)
        names_one = (head[1] == _GRAPHIC_CONTROL) & ((head[3] & 1) != 0)
        end, count = _skip_blocks(data, place + 2, count + 1)
        return end + 1, is_transparent | names_one, count

    return tf.while_loop(more, step, (start, tf.constant(False), tf.constant(0)))


def _skip_blocks(data: Any, start: Any, count: Any) -> tuple[Any, Any]:
    """The place of the empty block that ends a series, and the number of blocks read with those before.

    The place is behind the file when there is no such block, or when too many blocks were read.
    """
    import tensorflow as tf

    length = _length(data)

    def more(place: Any, count: Any) -> Any:
        return (place < length) & (count < _MAX_BLOCKS) & (_at(data, place, 1)[0] > 0)

    def step(place: Any, count: Any) -> tuple[Any, Any]:
        is_full = tf.concat([tf.equal(data[place::256], 255), [False]], 0)
        place += 256 * tf.argmin(tf.cast(is_full, tf.int32), output_type=tf.int32)
        num_bytes = _at(data, place, 1)[0]
        return place + tf.where(num_bytes > 0, 1 + num_bytes, 0), count + 1

    place, count = tf.while_loop(more, step, (start, count))
    is_end = (place < length) & tf.equal(_at(data, place, 1)[0], 0)
    return tf.where(is_end, place, length), count
