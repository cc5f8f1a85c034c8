"""The EXIF orientation of an image, read and applied with TensorFlow operations only.

Source: Exif 2.32 (CIPA DC-008), 4.5 and 4.6: the orientation is tag 0x0112 of the first image file
directory of a TIFF structure: in a JPEG in the first APP1 segment that starts with "Exif\\0\\0", in a PNG
in the chunk eXIf, in a WebP in the chunk EXIF. The result equals that of Pillow's `ImageOps.exif_transpose`.
Anything broken, missing or out of range counts as orientation 1: an image is never refused for its EXIF
data. Where they have no orientation Pillow takes that of XMP; such an image is refused unless it is upright.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorflow as tf

_SEARCHED = 1 << 18  # bytes from the start; cameras put EXIF first, and a segment has at most 64 KiB
_MAX_STEPS = 256  # segments, and bytes between them
_APP1, _START_OF_SCAN = 0xE1, 0xDA
_EXIF = (0x45, 0x78, 0x69, 0x66, 0, 0)
_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_TURNED_BY_XMP = "An image that only XMP data turn upright. Use pergola's client, or save the image upright."
_TURNS = (  # for orientations 1 to 8: whether axes are swapped, then rows reversed, then columns reversed
    (False, False, False, False, True, True, True, True),
    (False, False, True, True, False, False, True, True),
    (False, True, True, False, False, True, True, False),
)


def upright(image: Any, contents: Any) -> tf.Tensor:
    """The image of a JPEG rotated and mirrored according to its EXIF orientation.

    image: uint8 (H, W, C), decoded from contents, string (), which hold the orientation. The result is
    (W, H, C) from orientation 5 on.
    """
    import tensorflow as tf

    head = tf.strings.substr(contents, 0, _SEARCHED)
    # Most images have no EXIF data, and reading the segments costs more than decoding a small image.
    is_told = tf.strings.regex_full_match(head, r"\C*(?:Exif\x00\x00|tiff:Orientation)\C*")
    return tf.cond(is_told, lambda: turn(image, orientation(head)), lambda: image)


def turn(image: Any, orientation: Any) -> tf.Tensor:
    """The image, uint8 (H, W, C), rotated and mirrored; orientation: int32 (), 1 to 8."""
    import tensorflow as tf

    axes, rows, columns = (tf.gather(tf.constant(table), orientation - 1) for table in _TURNS)
    swapped = tf.transpose(image, tf.where(axes, [1, 0, 2], [0, 1, 2]))
    turned = tf.reverse(swapped, tf.boolean_mask([0, 1], tf.stack([rows, columns])))
    return tf.ensure_shape(turned, (None, None, image.shape[-1]))


def orientation(contents: Any) -> tf.Tensor:
    """EXIF orientation of a JPEG file, string () -> int32 (), 1 to 8; 1 where there is none."""
    import tensorflow as tf

    data = tf.io.decode_raw(tf.strings.substr(contents, 0, _SEARCHED), tf.uint8)
    return _not_by_xmp(contents, *_read_orientation(data, _find_tiff(data)))


def orientation_in_chunk(contents: Any) -> tf.Tensor:
    """EXIF orientation of a PNG or WebP file, string () -> int32 (), 1 to 8; 1 where there is none."""
    import tensorflow as tf

    block = contents
    for start, pattern in ((b"II*\0", r"II\*\x00"), (b"MM\0*", r"MM\x00\*")):
        before = r"^\C*?(?:eXIf|EXIF\C\C\C\C)(?:Exif\x00\x00)*"
        block = tf.strings.regex_replace(block, before + pattern, start, replace_global=False)
    block = tf.strings.join([b"\0", tf.strings.substr(block, 0, _SEARCHED)])
    return _not_by_xmp(contents, *_read_orientation(tf.io.decode_raw(block, tf.uint8), tf.constant(1)))


def _not_by_xmp(contents: Any, orientation: Any, is_tagged: Any) -> tf.Tensor:
    import tensorflow as tf

    is_turned = tf.strings.regex_full_match(contents, r"\C*tiff:Orientation(?:=\"|>)[2-8]\C*")
    with tf.control_dependencies([tf.debugging.Assert(is_tagged | ~is_turned, [_TURNED_BY_XMP])]):
        return tf.identity(orientation)


def _bytes_at(data: Any, index: Any) -> tf.Tensor:
    """Bytes at the given positions; 0 outside of the data: uint8 (N,) -> int32, shape of `index`."""
    import tensorflow as tf

    size = tf.size(data)
    place = tf.where((index >= 0) & (index < size), index, size)
    return tf.cast(tf.gather(tf.concat([data, [tf.constant(0, tf.uint8)]], 0), place), tf.int32)


def _integers(data: Any, index: Any, num_bytes: int, little: Any) -> tf.Tensor:
    """Unsigned integers (int32, so the highest bit makes them negative) that start at `index`.

    index: int32 (K,).  little: bool (), least significant byte first.
    """
    import tensorflow as tf

    values = _bytes_at(data, index[:, tf.newaxis] + tf.range(num_bytes))
    values = tf.where(little, values, tf.reverse(values, [1]))
    return tf.reduce_sum(values * tf.constant([1 << (8 * k) for k in range(num_bytes)]), 1)


def _find_tiff(data: Any) -> tf.Tensor:
    """The start of the TIFF structure in the first EXIF segment; 0 when there is none."""
    import tensorflow as tf

    def more(place: Any, found: Any, count: Any) -> tf.Tensor:
        marker = _bytes_at(data, place + tf.constant([0, 1]))
        is_scan = (marker[0] == 0xFF) & (marker[1] == _START_OF_SCAN)
        return (found == 0) & ~is_scan & (place < tf.size(data)) & (count < _MAX_STEPS)

    def step(place: Any, found: Any, count: Any) -> tuple[Any, Any, Any]:
        head = _bytes_at(data, place + tf.range(10))
        length = tf.maximum(2, head[2] * 256 + head[3])
        # Any number of 0xFF may come before a marker; decoders pass over other bytes between segments too.
        padding = (head[0] != 0xFF) | (head[1] == 0xFF)
        is_exif = ~padding & (head[1] == _APP1) & tf.reduce_all(head[4:] == tf.constant(_EXIF))
        place_after = place + tf.where(padding, 1, 2 + length)
        return place_after, tf.where(is_exif, place + 10, 0), count + 1

    _, found, _ = tf.while_loop(more, step, (tf.constant(2), tf.constant(0), tf.constant(0)))
    return found


def _read_orientation(data: Any, tiff: Any) -> tuple[Any, Any]:
    """The orientation, 1 where it is missing or invalid, and whether there is one."""
    import tensorflow as tf

    head = _bytes_at(data, tiff + tf.range(2))
    little = tf.reduce_all(head == tf.constant([0x49, 0x49]))
    is_known = little | tf.reduce_all(head == tf.constant([0x4D, 0x4D]))
    magic = _integers(data, tiff[tf.newaxis] + 2, 2, little)[0]
    directory = tiff + _integers(data, tiff[tf.newaxis] + 4, 4, little)[0]
    count = tf.minimum(_integers(data, directory[tf.newaxis], 2, little)[0], 512)
    entries = directory + 2 + 12 * tf.range(count)
    tags = _integers(data, entries, 2, little)
    kinds = _integers(data, entries + 2, 2, little)
    values = tf.where(
        kinds == _SHORT, _integers(data, entries + 8, 2, little), _integers(data, entries + 8, 4, little)
    )
    wanted = (tags == _ORIENTATION) & ((kinds == _SHORT) | (kinds == _LONG))
    first = tf.concat([tf.boolean_mask(values, wanted), [1]], 0)[0]
    is_tiff = (tiff > 0) & is_known & (magic == 42)
    is_valid = is_tiff & (first >= 1) & (first <= 8)
    return tf.where(is_valid, first, 1), is_tiff & tf.reduce_any(tags == _ORIENTATION)
