"""The one decode and resize, held against Pillow."""

import io
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pergola.components.imaging import decode as images
from pergola.components.imaging import exif


def picture(height: int = 24, width: int = 40, seed: int = 0) -> Image.Image:
    """Smooth, and different in every corner, so that JPEG keeps it and no turn looks like another."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red, green, blue = 255 * x / width, 255 * y / height, 127 * (x / width) ** 2 + seed
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_bytes(orientation: int, order: str = "<", kind: int = 3, magic: int = 42) -> bytes:
    """An EXIF block with two tags before the orientation, in either byte order."""
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    entries = [
        struct.pack(order + "HHI", 0x0100, 4, 1) + struct.pack(order + "I", 9),
        struct.pack(order + "HHI", 0x010F, 2, 4) + b"abc\0",
        struct.pack(order + "HHI", 0x0112, kind, 1) + value,
    ]
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(order + "HI", magic, 8) + struct.pack(order + "H", len(entries))
    return b"Exif\0\0" + head + b"".join(entries) + struct.pack(order + "I", 0)


@pytest.fixture(scope="module")
def decode():
    import tensorflow as tf

    function = tf.function(lambda contents: images.decode(contents, 3))
    specified = function.get_concrete_function(tf.TensorSpec((), tf.string))
    return lambda contents: specified(tf.constant(contents)).numpy()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_a_jpeg_as_pillow_does(decode, orientation, order):
    contents = encoded(picture(), "JPEG", exif=exif_bytes(orientation, order), quality=95, subsampling=0)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))
    got = decode(contents)
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    "block",
    [
        exif_bytes(0),
        exif_bytes(9),
        exif_bytes(6, magic=41),
        exif_bytes(6)[:-20],
        exif_bytes(6)[:12],
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"http://ns.adobe.com/xap/1.0/\0" + b"<x/>",
    ],
)
def test_decode_ignores_broken_exif(decode, block):
    contents = encoded(picture(), "JPEG", exif=block)
    assert decode(contents).shape == (24, 40, 3)


def test_orientation_as_a_long_is_read():
    contents = encoded(picture(), "JPEG", exif=exif_bytes(6, kind=4))
    assert int(exif.orientation(contents)) == 6


def test_orientation_behind_other_segments_is_found():
    plain = encoded(picture(), "JPEG", exif=exif_bytes(8))
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 300) + b"c" * 300
    assert int(exif.orientation(plain[:2] + comment * 3 + b"\xff" + plain[2:])) == 8


@given(block=st.binary(max_size=200))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_orientation_of_any_bytes_is_1_to_8(block):
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(block)) + b"Exif\0\0" + block
    assert 1 <= int(exif.orientation(b"\xff\xd8" + segment)) <= 8
    assert 1 <= int(exif.orientation(b"\xff\xd8" + block)) <= 8


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        ("JPEG", "RGB", 1),
        ("JPEG", "L", 1),
        ("JPEG", "CMYK", 4),
        ("PNG", "RGB", 0),
        ("PNG", "L", 0),
        ("PNG", "P", 0),
        ("PNG", "1", 0),
        ("WEBP", "RGB", 0),
        ("GIF", "P", 0),
        ("BMP", "RGB", 0),
        ("BMP", "L", 0),
        ("BMP", "P", 0),
    ],
)
def test_decode_reads_what_pillow_reads(decode, kind, mode, tolerance):
    options = {"lossless": True} if kind == "WEBP" else {}
    contents = encoded(picture().convert(mode), kind, **options)
    wanted = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")).astype(int)
    got = decode(contents)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_decode_lays_transparent_images_on_white(decode, kind):
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    contents = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    white = Image.new("RGBA", image.size, "white")
    wanted = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(int)
    assert np.abs(decode(contents) - wanted).max() <= 1


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\xff",
        b"no image",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"GIF89a",
        b"RIFF",
    ],
)
def test_decode_refuses_what_is_no_image(decode, contents):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(contents)


def test_decode_refuses_a_truncated_image(decode):
    import tensorflow as tf

    for kind in ("JPEG", "PNG", "WEBP"):
        contents = encoded(picture(64, 64), kind)
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(contents[: len(contents) // 2])


def test_decode_refuses_a_bomb_by_its_header(decode):
    import tensorflow as tf

    contents = bytearray(encoded(picture(), "PNG"))
    contents[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(tf.errors.InvalidArgumentError, match="134217728 pixels"):
        decode(bytes(contents))


def test_decode_makes_grey_as_pillow_does():
    contents = encoded(picture(), "PNG")
    wanted = np.asarray(picture().convert("L")).astype(int)[..., None]
    assert np.abs(images.decode(contents, 1).numpy() - wanted).max() <= 1


def test_resize_shrinks_as_pillow_does():
    wanted = np.asarray(picture(60, 90).resize((30, 20), Image.Resampling.BILINEAR)).astype(int)
    got = images.resize(np.asarray(picture(60, 90)), 20, 30).numpy()
    assert got.dtype == np.uint8
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("aspect", images.ASPECTS)
@pytest.mark.parametrize("size", [(8, 8), (7, 21), (50, 3), (1, 1)])
def test_resize_gives_one_image_and_a_batch_the_same(aspect, size):
    image = np.asarray(picture(*size))
    one = images.resize(image, 6, 9, aspect).numpy()
    batch = images.resize(np.stack([image, image]), 6, 9, aspect).numpy()
    assert one.shape == (6, 9, 3)
    np.testing.assert_array_equal(batch, [one, one])


@pytest.mark.parametrize("aspect", images.ASPECTS)
def test_resize_leaves_a_image_that_fits_as_resampling_would(aspect):
    image = np.asarray(picture(33, 20))
    np.testing.assert_array_equal(images.resize(image, *image.shape[:2], aspect), image)
    np.testing.assert_array_equal(images._resampled(image, image.shape[:2]), image)


def test_resize_crops_the_longer_side_evenly():
    image = np.zeros((4, 12, 1), np.uint8)
    image[:, 4:8] = 200
    assert (images.resize(image, 4, 4, "crop").numpy() == 200).all()


def test_resize_pads_the_shorter_side_evenly():
    padded = images.resize(np.full((4, 12, 1), 200, np.uint8), 12, 12, "pad").numpy()
    assert (padded[4:8] == 200).all()
    assert (padded[:4] == images.PAD_GREY).all() and (padded[8:] == images.PAD_GREY).all()


def test_load_batch_brings_every_image_to_one_size():
    import tensorflow as tf

    contents = [encoded(picture(9, 9), "PNG"), encoded(picture(30, 50), "JPEG")]
    batch = images.load_batch(tf.constant(contents), 16, 24, 3)
    assert batch.shape == (2, 16, 24, 3) and batch.dtype == tf.uint8
    one = images.load(tf.constant(contents[1]), 16, 24, 3)
    np.testing.assert_array_equal(batch[1], one)


def test_load_batch_of_none_is_empty():
    import tensorflow as tf

    assert images.load_batch(tf.zeros((0,), tf.string), 4, 5, 3).shape == (0, 4, 5, 3)
