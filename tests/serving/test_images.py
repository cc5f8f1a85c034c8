"""serving/wire/images.py against Pillow's reading of every kind of file and TensorFlow's decoder."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pergola.serving.wire.images import prepare
from tests.support import images
from tests.support.images import encoded, jpeg, pixels, png

CASES = Path(__file__).parents[1] / "cases"


@pytest.fixture
def image() -> np.ndarray:
    return pixels(1, 2, size=40)[:24]


def read(data: bytes) -> np.ndarray:
    """Pixels as a person sees them: uint8 (H, W) or (H, W, 3)."""
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.getexif().get(0x0112, 1) == 1
        return np.asarray(picture)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("make", [jpeg, png, lambda i: encoded(i, "WEBP", lossless=True)])
def test_prepare_leaves_what_tensorflow_reads_unchanged(image, make):
    for picture in (image, image[..., 0]):
        data = make(picture)
        assert prepare(data) is data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_prepare_turns_every_orientation_upright(image, orientation):
    data = prepare(images.turned_jpeg(image, orientation))
    assert difference(read(data), image) < 20
    assert (Image.open(io.BytesIO(data)).format) == "JPEG"


def test_prepare_reads_exif_of_png_and_webp(image):
    exif = Image.Exif()
    exif[0x0112] = 3
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = prepare(encoded(image[::-1, ::-1], format, exif=exif, **options))
        assert difference(read(data), image) == 0


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_prepare_ignores_broken_exif(image):
    broken = encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert prepare(broken) == broken


def test_prepare_puts_transparent_parts_on_white(image):
    alpha = np.zeros(image.shape[:2], np.uint8)
    alpha[:, 20:] = 255
    white = image.copy()
    white[:, :20] = 255
    assert difference(read(prepare(images.transparent_png(image, alpha))), white) == 0


def test_prepare_puts_transparent_palette_and_grey_on_white(image):
    palette = Image.fromarray(image).quantize(8)
    clear = palette.getpixel((0, 0))
    wanted = np.where(np.asarray(palette)[..., None] == clear, 255, np.asarray(palette.convert("RGB")))
    for format in ("PNG", "GIF"):
        assert difference(read(prepare(encoded(palette, format, transparency=clear))), wanted) == 0
    grey = image[..., 0]
    wanted = np.where(grey == grey[0, 0], 255, grey)
    data = prepare(encoded(grey, "PNG", transparency=int(grey[0, 0])))
    assert difference(read(data), wanted) == 0


def test_prepare_keeps_the_upper_bits_of_16(image):
    grey = image[..., 1]
    assert difference(read(prepare(images.png_16_bit(grey))), grey) == 0
    pgm = b"P5 40 24 65535\n" + (grey.astype(">u2") * 257).tobytes()
    assert difference(read(prepare(pgm)), grey) == 0


def test_prepare_makes_cmyk_rgb(image):
    data = prepare(images.cmyk_jpeg(image))
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
    assert difference(read(data), image) < 60


@pytest.mark.parametrize(
    "make",
    [
        lambda p: encoded(p, "BMP"),
        lambda p: encoded(p.quantize(16), "BMP"),
        lambda p: encoded(p.convert("1"), "BMP"),
        lambda p: encoded(p.convert("1"), "PNG"),
        lambda p: encoded(p.quantize(16), "PNG"),
        lambda p: encoded(p.quantize(16), "GIF", save_all=True, append_images=[p.quantize(16).rotate(90)]),
        lambda p: encoded(p, "WEBP", lossless=True, save_all=True, append_images=[p.rotate(180)]),
        lambda p: encoded(p, "TIFF", compression="tiff_lzw"),
        lambda p: encoded(p, "PPM"),
    ],
    ids=["bmp", "bmp-palette", "bmp-1", "png-1", "png-palette", "gif-moving", "webp-moving", "tiff", "ppm"],
)
def test_prepare_gives_tensorflow_the_pixels_that_pillow_sees(image, make):
    tf = pytest.importorskip("tensorflow")
    data = make(Image.fromarray(image))
    with Image.open(io.BytesIO(data)) as picture:
        wanted = np.asarray(picture.convert("RGB"))
    decoded = tf.io.decode_image(prepare(data), channels=3, expand_animations=False).numpy()
    assert difference(decoded, wanted) == 0
    assert tf.io.decode_image(prepare(data), channels=1).shape == (24, 40, 1)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3)])
def test_prepare_takes_arrays(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert difference(read(prepare(array)), array.squeeze()) == 0


def test_prepare_takes_paths(tmp_path, image):
    path = tmp_path / "ein Bild mit ümlaut.JPG"
    path.write_bytes(jpeg(image))
    assert prepare(path) == prepare(str(path)) == path.read_bytes()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"", "is empty"),
        (b"just text", "is not an image"),
        (images.truncated(png(pixels(0, 0))), "cannot be decoded"),
        (images.truncated(jpeg(pixels(0, 0))), "cannot be decoded"),
        (images.truncated(encoded(pixels(0, 0), "WEBP")), "image"),
        (images.bomb(), "pixels"),
        (np.zeros((4, 4), np.float32), "expected uint8"),
        (np.zeros((0, 4), np.uint8), "expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
        (7, "Got a int"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_prepare_says_what_is_wrong(bad, says):
    with pytest.raises(ValueError, match=says):
        prepare(bad)


@pytest.mark.parametrize("name", ["anim-webp/anim.webp", "anim-webp-one-frame/one-frame.webp"])
def test_prepare_gives_the_first_frame_of_an_animated_webp(name):
    data = (CASES / name).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        wanted = np.asarray(picture.convert("RGB"))
    prepared = prepare(data)
    assert prepared[12:16] != b"VP8X"
    assert difference(read(prepared), wanted) == 0


def test_prepare_refuses_the_canvas_of_a_webp_before_it_is_opened(image):
    still = encoded(image, "WEBP", exif=b"MM\0*\0\0\0\x08\0\0\0\0\0\0")
    assert still[12:16] == b"VP8X"
    canvas = bytearray(still)
    canvas[24:30] = (39_999).to_bytes(3, "little") * 2
    with pytest.raises(ValueError, match="40000 x 40000 pixels, more than the limit"):
        prepare(bytes(canvas))
    for lossless, start, claim in ((True, 21, b"\xff" * 4), (False, 26, b"\xff" * 4)):
        simple = bytearray(encoded(image, "WEBP", lossless=lossless))
        simple[start : start + 4] = claim
        with pytest.raises(ValueError, match=r"1638[34] x 1638[34] pixels, more than the limit"):
            prepare(bytes(simple))


def test_prepare_rewrites_a_png_whose_pixels_have_a_wrong_checksum():
    data = (CASES / "png-bad-crc" / "bad-crc.png").read_bytes()
    prepared = prepare(data)
    assert prepared != data
    assert difference(read(prepared), read(data)) == 0
    assert prepare(prepared) is prepared


def test_prepare_keeps_its_limit(image):
    with pytest.raises(ValueError, match="40 x 24 pixels, more than the limit of 900"):
        prepare(png(image), max_pixels=900)


def test_images_needs_neither_tensorflow_nor_components():
    code = (
        "import sys, pergola.serving.wire.images; "
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'pandas', 'components')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
