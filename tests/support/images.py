"""Small real images: folders that a network can learn, and files with everything that goes wrong.

folder = write_folder(tmp_path / "dataset", classes=3, per_class=8)      # dataset/class_0/000.png, …
(folder / "class_0" / "broken.jpg").write_bytes(truncated(jpeg(pixels(0, 0))))
"""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112


def pixels(
    label: int, number: int, *, classes: int = 3, size: int = 24, channels: int = 3, seed: int = 0
) -> np.ndarray:
    """Stripes whose angle depends on the class, everything else random: uint8 (size, size[, 3])."""
    rng = np.random.default_rng((seed, label, number))
    rows, columns = np.mgrid[0:size, 0:size] / size
    angle = np.pi * (label + rng.uniform(-0.15, 0.15)) / classes
    along = rows * np.sin(angle) + columns * np.cos(angle)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * (rng.uniform(2.2, 3.2) * along + rng.uniform()))
    shade = 0.5 + 0.5 * (rng.uniform(-1, 1) * (rows - 0.5) + rng.uniform(-1, 1) * (columns - 0.5))
    ink, paper = rng.uniform(0.0, 0.4, 3), rng.uniform(0.6, 1.0, 3)
    image = paper + (ink - paper) * stripes[..., None]
    image = np.clip(255 * (image * shade[..., None] + rng.normal(0, 0.04, (size, size, 3))), 0, 255)
    return image.astype(np.uint8) if channels == 3 else image.mean(axis=2).astype(np.uint8)


def write_folder(
    root: Path,
    *,
    classes: int = 3,
    per_class: int = 8,
    size: int = 24,
    channels: int = 3,
    suffix: str = ".png",
    seed: int = 0,
) -> Path:
    """One folder per class, with unique images that a small network can classify. Returns `root`."""
    for label in range(classes):
        folder = root / f"class_{label}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            image = pixels(label, number, classes=classes, size=size, channels=channels, seed=seed)
            Image.fromarray(image).save(folder / f"{number:03}{suffix}")
    return root


def encoded(image: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    """An image file's bytes. format and options: as Pillow's `save` has them."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


def png(image: np.ndarray | Image.Image) -> bytes:
    """A PNG file's bytes."""
    return encoded(image, "PNG")


def jpeg(image: np.ndarray | Image.Image, quality: int = 95, **options: Any) -> bytes:
    """A JPEG file's bytes."""
    return encoded(image, "JPEG", quality=quality, **options)


def turned_jpeg(image: np.ndarray, orientation: int, quality: int = 95) -> bytes:
    """A JPEG that looks like `image` only when its EXIF orientation (1 to 8) is applied."""
    from PIL import ImageOps

    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[_ORIENTATION] = inverse
    carrier = Image.fromarray(image)
    carrier.getexif()[_ORIENTATION] = inverse
    stored = ImageOps.exif_transpose(carrier)
    exif[_ORIENTATION] = orientation
    return encoded(stored, "JPEG", quality=quality, subsampling=0, exif=exif)


def cmyk_jpeg(image: np.ndarray) -> bytes:
    """A JPEG in four inks, as printers' files come."""
    return encoded(Image.fromarray(image).convert("CMYK"), "JPEG", quality=95)


def png_16_bit(image: np.ndarray) -> bytes:
    """A grey PNG with 16 bits a pixel whose upper 8 are `image` (uint8 (H, W))."""
    return encoded(Image.fromarray((image.astype(np.uint16) << 8) | 0x5A), "PNG")


def transparent_png(image: np.ndarray, alpha: np.ndarray) -> bytes:
    """An RGBA PNG. alpha: uint8 (H, W), 0 is transparent."""
    return encoded(Image.fromarray(np.dstack([image, alpha])), "PNG")


def truncated(data: bytes, share: float = 0.5) -> bytes:
    """The first part of a file, as an interrupted copy leaves it."""
    return data[: int(len(data) * share)]


def bomb() -> bytes:
    """A PNG of a few hundred bytes that claims 60,000 x 60,000 pixels."""
    data = bytearray(png(np.zeros((8, 8), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = _crc(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def write_idx(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray) -> None:
    """A pair of gzipped IDX files as MNIST has them. images: uint8 (N, H, W); labels: (N,)."""
    folder.mkdir(parents=True, exist_ok=True)
    head = b"\0\0\x08\x03" + b"".join(int(n).to_bytes(4, "big") for n in images.shape)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes(), mtime=0))
    head = b"\0\0\x08\x01" + len(labels).to_bytes(4, "big")
    body = labels.astype(np.uint8).tobytes()
    (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + body, mtime=0))


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    """A tar archive of files, with whatever names they are given."""
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _crc(data: bytes) -> int:
    import zlib

    return zlib.crc32(data)
