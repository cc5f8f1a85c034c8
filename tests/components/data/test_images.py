"""The one decode and resize, held against Pillow."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pergola.components.data.manifest.image_metadata import ImageLimits, inspect
from pergola.components.imaging import decode as images
from pergola.components.imaging import exif
from pergola.serving.wire.images import prepare
from tests.support.cases import (
    CASES,
    encoded,
    exif_bytes,
    odd_files,
    picture,
    png_chunk,
)


@pytest.fixture(scope="module")
def decode():
    import tensorflow as tf

    function = tf.function(lambda contents: images.decode(contents, 3))
    specified = function.get_concrete_function(tf.TensorSpec((), tf.string))
    return lambda contents: specified(tf.constant(contents)).numpy()


@pytest.fixture(scope="module")
def orientation():
    import tensorflow as tf

    return tf.function(exif.orientation, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


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


def test_orientation_behind_stray_bytes_is_found():
    plain = encoded(picture(), "JPEG", exif=exif_bytes(6))
    assert int(exif.orientation(plain[:20] + b"stray bytes" + plain[20:])) == 6


@given(block=st.binary(max_size=200))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_orientation_of_any_bytes_is_1_to_8(orientation, block):
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6 + len(block)) + b"Exif\0\0" + block
    assert 1 <= int(orientation(b"\xff\xd8" + segment)) <= 8
    assert 1 <= int(orientation(b"\xff\xd8" + block)) <= 8


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


@pytest.mark.parametrize("channels", [1, 3])
def test_prepared_files_decode_as_others_do(channels):
    import tensorflow as tf

    kinds = [(kind, mode) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP") for mode in ("RGB", "L")]
    files = {f"{kind} {mode}": encoded(picture().convert(mode), kind) for kind, mode in kinds} | odd_files()
    whole, small = (
        tf.function(partial(function, channels=channels), input_signature=[tf.TensorSpec((), tf.string)])
        for function in (images.decode, images.decode_prepared)
    )
    compared = 0
    for name, data in files.items():
        with contextlib.suppress(ValueError):  # of a file that is refused before it is in a shard
            ready = prepare(data)
            np.testing.assert_array_equal(whole(ready), small(ready), err_msg=name)
            compared += 1
    assert compared > 50


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_decode_lays_transparent_images_on_white(decode, kind):
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    contents = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    white = Image.new("RGBA", image.size, "white")
    wanted = np.asarray(Image.alpha_composite(white, image).convert("RGB")).astype(int)
    assert np.abs(decode(contents) - wanted).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("kind", "chunk"),
    [(0, (b"tEXt", b"Title\0tRNS")), (3, (b"tEXt", b"Title\0tRNS"))],
    ids=["grey", "palette"],
)
def test_decode_takes_a_png_for_transparent_by_its_own_chunk_alone(decode, bits, kind, chunk):
    contents = small_png(bits, kind, chunk)
    with Image.open(io.BytesIO(contents)) as opaque:
        np.testing.assert_array_equal(decode(contents), np.asarray(opaque.convert("RGB")))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_decode_takes_as_many_transparent_colours_as_there_are(decode, bits):
    for count in {1, 2**bits - 1, 2**bits}:
        contents = small_png(bits, 3, (b"tRNS", bytes(range(count))))
        prepared = np.asarray(Image.open(io.BytesIO(prepare(contents))).convert("RGB")).astype(int)
        assert np.abs(decode(contents) - prepared).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_decode_refuses_transparent_colours_that_libpng_ignores_and_pillow_heeds(decode, bits):
    import tensorflow as tf

    chunks = [(0, b""), (0, b"\0\0\0\0"), (3, b""), (3, bytes(2**bits + 1))]
    for kind, colours in chunks + ([(2, b""), (2, bytes(8))] if bits == 8 else []):
        with pytest.raises(tf.errors.InvalidArgumentError, match="tRNS chunk has a wrong length"):
            decode(small_png(bits, kind, (b"tRNS", colours)))


def small_png(bits, kind, chunk):
    """8 x 8 pixels of a colour type, with a chunk before them."""
    rows = b"".join(b"\0" + bytes([16 * row] * bits * (3 if kind == 2 else 1)) for row in range(8))
    start = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, kind, 0, 0, 0))
    palette = png_chunk(b"PLTE", bytes(range(2**bits)) * 3) if kind == 3 else b""
    rest = palette + png_chunk(*chunk) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + start + rest


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


ODD_FILES = odd_files()
ANSWERED = [  # files that are neither turned nor transparent, or that the graph can read as they are
    *("jpeg-exif-over-xmp", "jpeg-xmp-upright", "png-exif-at-end", "png-exif-upright", "png-exif-broken"),
    *("png-1-bit-clear", "png-palette-clear", "png-palette-faint", "trns_grey.png", "trns_rgb.png"),
    *("exif6.png", "exif6.webp", "webp-exif-clear", "webp-exif-prefix", "gif-comment", "gif-moving", "apng"),
    *("bmp-v4", "bmp-v5", "bmp-palette-of-8", "bmp-palette-of-256"),
]


@pytest.mark.parametrize("name", ODD_FILES)
def test_decode_answers_as_prepared_or_refuses(decode, name):
    import tensorflow as tf

    prepared = decode(prepare(ODD_FILES[name]))
    try:
        raw = decode(ODD_FILES[name])
    except tf.errors.InvalidArgumentError:
        assert name not in ANSWERED
        return
    assert raw.shape == prepared.shape
    assert np.abs(raw.astype(int) - prepared).max() <= 1  # blending with white rounds differently


def test_prepare_turns_what_only_the_client_reads():
    turned = [name for name, data in ODD_FILES.items() if prepare(data) != data]
    assert {
        "png-raw-profile",
        "png-zipped-profile",
        "png-xmp",
        "png-zipped-xmp",
        "webp-xmp",
        "xmp6.jpg",
    } <= set(turned)


REFUSE = """
import sys
import tensorflow as tf
from pergola.components.imaging import decode
for path in sys.argv[1:]:
    contents = open(path, "rb").read()
    for _ in range(20):
        try:
            decode.decode(contents, 3)
        except tf.errors.InvalidArgumentError as error:
            assert "animated WebP" in str(error), error
        else:
            raise SystemExit(f"{path} was decoded")
print("refused")
"""


@pytest.mark.slow
def test_decode_refuses_animated_webp_before_the_native_decoder():
    files = [str(path) for path in CASES.glob("anim-webp*/*.webp")]
    assert len(files) == 2
    done = subprocess.run([sys.executable, "-c", REFUSE, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr[-2000:]


@pytest.mark.parametrize("name", ["anim-webp/anim.webp", "anim-webp-one-frame/one-frame.webp"])
def test_scan_and_shards_take_the_first_frame_of_an_animated_webp(decode, name):
    contents = (CASES / name).read_bytes()
    found = inspect(contents, ImageLimits(max_pixels=10**6, max_side=10**4, max_bytes=10**6))
    assert (found.format, found.reason) == ("WEBP", None)
    with Image.open(io.BytesIO(contents)) as image:
        wanted = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(prepare(contents)), wanted)


@pytest.mark.parametrize(("kind", "start"), [("VP8X", 24), ("VP8L", 21), ("VP8 ", 26)])
def test_decode_refuses_the_canvas_of_a_webp_by_its_header(decode, kind, start):
    import tensorflow as tf

    options = {"exif": exif_bytes(1)} if kind == "VP8X" else {}
    contents = bytearray(encoded(picture(), "WEBP", lossless=kind == "VP8L", **options))
    assert contents[12:16] == kind.encode()
    contents[start : start + (6 if kind == "VP8X" else 4)] = b"\xff" * (6 if kind == "VP8X" else 4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="134217728 pixels"):
        decode(bytes(contents))


def gif_of(*sizes: tuple[int, int]) -> bytes:
    """A GIF whose later frames claim sizes of their own."""
    palette = picture().quantize(8)
    frames = [palette.rotate(90 * turn) for turn in range(1, len(sizes))]
    data = bytearray(encoded(palette, "GIF", save_all=True, append_images=frames))
    starts = [at for at in range(len(data) - 9) if data[at : at + 5] == b",\0\0\0\0"]
    assert len(starts) == len(sizes)
    for start, size in zip(starts, sizes, strict=True):
        data[start + 5 : start + 9] = struct.pack("<HH", *size)
    return bytes(data)


def test_decode_reads_the_first_frame_of_a_gif_alone(decode):
    wanted = decode(gif_of((40, 24), (40, 24)))
    np.testing.assert_array_equal(decode(gif_of((40, 24), (65_000, 65_000))), wanted)
    whole = gif_of((40, 24), (40, 24), (40, 24))
    np.testing.assert_array_equal(decode(whole[: len(whole) * 2 // 3]), wanted)


@pytest.mark.parametrize("kind", ["P", "L"])
def test_decode_reads_a_large_gif_of_full_blocks(decode, kind):
    noise = np.random.default_rng(0).integers(0, 256, (300, 200), np.uint8)
    contents = encoded(Image.fromarray(noise).convert(kind), "GIF", comment=b"c" * 2000)
    wanted = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    np.testing.assert_array_equal(decode(contents), wanted)


def test_decode_refuses_a_gif_of_endless_small_blocks(decode):
    import tensorflow as tf

    contents = encoded(picture().quantize(8), "GIF")
    comment = b"!\xfe" + b"\x01c" * 40_000 + b"\0"
    start = contents.index(b",\0\0\0\0")
    with pytest.raises(tf.errors.InvalidArgumentError, match="incomplete"):
        decode(contents[:start] + comment + contents[start:])


def test_decode_says_nothing_of_the_bytes_that_it_refuses(decode):
    import tensorflow as tf

    contents = bytearray(encoded(picture().convert("L"), "BMP"))
    contents[14:18] = b"\xff" * 4
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP"):
        decode(bytes(contents))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_decode_of_transparent_bombs_is_bounded_by_the_limit(mode):
    import tensorflow as tf

    contents = encoded(Image.new(mode, (700, 600)), "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert len(contents) < 6000
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 400000 pixels"):
        images.decode(contents, 3, 400_000)
    assert images.decode(contents, 3, 420_000).shape == (600, 700, 3)


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
