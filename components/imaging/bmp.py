"""Decodes BMP files in the TensorFlow graph, those that mean the same to TensorFlow and to Pillow.

`tf.io.decode_bmp` looks at size and depth alone: it takes compressed pixels and colour masks for plain ones,
and the indices of a palette for grey levels. Source: the BITMAPINFOHEADER of Microsoft's "Bitmap Storage".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pergola.components.imaging import headers

if TYPE_CHECKING:
    import tensorflow as tf

_HEADERS = (40, 108, 124)  # bytes of the versions 3, 4 and 5
_DEPTHS = (8, 24, 32)
_NOT_PLAIN = (
    "A BMP that is compressed, has colour masks or an alpha channel, or is not of 8, 24 or 32 bits. Save it "
    "as PNG, or send it with pergola's client, which does that."
)


def decode(contents: Any, max_pixels: int) -> tf.Tensor:
    """A plain BMP, string () -> uint8 (H, W, 3)."""
    import tensorflow as tf

    head = headers.bytes_at(contents, 0, 50)
    size = tf.stack([headers.little(head, 18, 4), tf.abs(headers.little(head, 22, 4))])
    bits, colours = headers.little(head, 28), headers.little(head, 46, 4)
    header_bytes = headers.little(head, 14, 4)
    is_plain = (
        tf.reduce_any(tf.equal(header_bytes, _HEADERS))
        & tf.reduce_any(tf.equal(bits, _DEPTHS))
        & tf.equal(headers.little(head, 30, 4), 0)
        & (colours >= 0)
        & (colours <= 256)
    )
    starts_behind = headers.little(head, 10, 4) >= 14 + header_bytes
    checks = [
        headers.check_size(size, max_pixels),
        tf.debugging.Assert(is_plain & starts_behind, [_NOT_PLAIN]),
    ]
    with tf.control_dependencies(checks):
        image = tf.io.decode_bmp(contents)

    def look_up() -> tf.Tensor:
        count = tf.where(tf.equal(colours, 0), 256, colours)
        palette = headers.bytes_at(contents, 14 + header_bytes, 1024)
        named = tf.reshape(tf.where(tf.range(1024) < 4 * count, palette, 0), (256, 4))
        return tf.gather(tf.cast(named, tf.uint8), tf.cast(image[..., 0], tf.int32))[..., 2::-1]

    return tf.cond(tf.equal(bits, 8), look_up, lambda: image[..., :3])
