"""Images in array files: IDX (MNIST), CIFAR's python batches, .npz.

Each file's pixels are laid out once as a plain .npy in a folder of ours and mapped from there, so that one
image is read without the others. An image's bytes are a Netpbm file: "P5" (grey) or "P6" (colour), size,
255, and the pixels.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.artifacts.data import TEST, TRAIN, VALIDATION
from pergola.components.data.sources import cifar, npz
from pergola.components.data.sources.archives import staged
from pergola.components.data.sources.source import SPLIT_NAMES, Entry, Stamp, check_labels
from pergola.components.errors import InputError

_IDX = re.compile(r"(?P<before>.*?)-?images[-.]idx3-ubyte(?P<gz>\.gz)?$", re.IGNORECASE)
_IDX_SPLITS = {"train": TRAIN, "t10k": TEST, "test": TEST, "val": VALIDATION}
_CIFAR10 = {f"data_batch_{n}": TRAIN for n in range(1, 6)} | {"test_batch": TEST}
_CIFAR100 = {"train": TRAIN, "test": TEST}
_COPY_CHUNK = 1 << 22


@dataclass(frozen=True)
class ArrayPart:
    """The images of one array file."""

    name: str  # as it appears in paths, before "#"
    pixels: Path  # .npy, uint8 (N, H, W) or (N, H, W, 3)
    labels: Path  # .npy, int64 (N,), indices into names
    names: tuple[str, ...]
    given_split: str | None
    stamp: Stamp


@dataclass(frozen=True)
class ArraySource:
    """Array files, laid out for reading one image at a time."""

    kind: str
    scratch: Path
    parts: tuple[ArrayPart, ...]
    columns: tuple[str, ...] = ()

    def entries(self) -> Iterator[Entry]:
        """Every image, in order of path."""
        for part in sorted(self.parts, key=lambda part: part.name + "#"):
            labels = np.load(part.labels, mmap_mode="r")
            digits = len(str(len(labels) - 1))
            num_bytes = len(netpbm(_mapped(part.pixels)[0])) if len(labels) else 0
            for number, label in enumerate(labels):
                path = f"{part.name}#{number:0{digits}}"
                yield Entry(path, part.names[label], part.given_split, part.stamp, num_bytes)

    def read(self, path: str) -> bytes:
        name, _, number = path.rpartition("#")
        part = next((part for part in self.parts if part.name == name), None)
        if part is None or not number.isdecimal():
            raise FileNotFoundError(f"'{path}' is not in this data set.")
        pixels = _mapped(part.pixels)
        if int(number) >= len(pixels):
            raise FileNotFoundError(f"'{path}' is beyond the {len(pixels)} images of its file.")
        return netpbm(pixels[int(number)])


def netpbm(image: np.ndarray) -> bytes:
    """An image file of uint8 pixels (H, W) or (H, W, 3)."""
    kind = b"P5" if image.ndim == 2 else b"P6"
    return kind + f"\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes()


def is_idx(name: str) -> bool:
    """Whether a file's name says that it holds images in IDX."""
    return _IDX.match(name) is not None


def is_cifar(names: list[str]) -> bool:
    """Whether a folder with these names holds CIFAR-10's or CIFAR-100's python batches."""
    return {"data_batch_1", "batches.meta"} <= set(names) or {"train", "test", "meta"} <= set(names)


def open_idx(folder: Path, scratch: Path) -> ArraySource:
    """The pairs `<before>images-idx3-ubyte[.gz]` and `<before>labels-idx1-ubyte[.gz]` of a folder."""
    parts = []
    for file in sorted(f for f in folder.iterdir() if is_idx(f.name)):
        labels = _idx_labels(file)
        laid = staged(scratch, [file, labels], functools.partial(_lay_idx, file, labels))
        split = next(
            (s for word, s in (("train", TRAIN), ("t10k", TEST), ("test", TEST)) if word in file.name), None
        )
        split = split or (VALIDATION if "val" in file.name else None)
        parts.append(_part(laid, file, file.name, split))
    return _source("idx", scratch, parts, folder)


def open_cifar(folder: Path, scratch: Path) -> ArraySource:
    """CIFAR-10's data_batch_1 … test_batch, or CIFAR-100's train and test (with fine labels)."""
    ten = (folder / "data_batch_1").is_file()
    meta = folder / ("batches.meta" if ten else "meta")
    names = cifar.label_names(meta)
    parts = []
    for name, split in (_CIFAR10 if ten else _CIFAR100).items():
        file = folder / name
        if not file.is_file():
            continue
        laid = staged(scratch, [file, meta], functools.partial(_lay_cifar, file, names))
        parts.append(_part(laid, file, name, split))
    return _source("cifar", scratch, parts, folder)


def open_npz(file: Path, scratch: Path, *, max_bytes: int) -> ArraySource:
    """x_train and y_train, x_test and y_test (or train_images, train_labels, …), or images and labels."""
    laid = staged(scratch, [file], functools.partial(npz.lay, file, max_bytes))
    parts = []
    for part in sorted(laid.iterdir()):
        split = SPLIT_NAMES.get(part.name)
        parts.append(_part(part, file, f"{file.name}/{part.name}" if split else file.name, split))
    return _source("npz", scratch, parts, file)


def _part(laid: Path, file: Path, name: str, split: str | None) -> ArrayPart:
    info = file.stat()
    names = tuple(json.loads((laid / "names.json").read_text(encoding="utf-8")))
    stamp = (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return ArrayPart(name, laid / "pixels.npy", laid / "labels.npy", names, split, stamp)


def _source(kind: str, scratch: Path, parts: list[ArrayPart], where: Path) -> ArraySource:
    check_labels({name for part in parts for name in part.names}, where)
    if not any(len(np.load(part.labels, mmap_mode="r")) for part in parts):
        raise InputError(f"'{where}' holds no images.")
    return ArraySource(kind, scratch, tuple(parts))


@functools.lru_cache(maxsize=32)
def _mapped(pixels: Path) -> np.ndarray:
    # The path has the content's stamp in it: what is cached never grows stale.
    return np.load(pixels, mmap_mode="r")


def _idx_labels(images: Path) -> Path:
    name = re.sub("images", "labels", images.name, flags=re.IGNORECASE).replace("idx3", "idx1")
    for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
        if (images.parent / candidate).is_file():
            return images.parent / candidate
    raise InputError(f"'{images}' has no labels beside it: wanted '{name}' in the same folder.")


def _lay_idx(images: Path, labels: Path, folder: Path) -> None:
    count = _copy_idx(images, 3, folder / "pixels.npy")
    if _copy_idx(labels, 1, folder / "labels.npy") != count:
        raise InputError(f"'{images}' and '{labels.name}' do not hold the same number of images and labels.")
    values = np.load(folder / "labels.npy")
    npz.save_labels(folder, values, [str(n) for n in range(int(values.max(initial=0)) + 1)])


def _copy_idx(file: Path, dimensions: int, target: Path) -> int:
    """IDX (http://yann.lecun.com/exdb/mnist) as .npy; gives the number of items."""
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb") as data:
            head = data.read(4)
            if head != bytes((0, 0, 8, dimensions)):
                raise InputError(f"'{file}' is no IDX file of bytes in {dimensions} dimensions.")
            shape = tuple(int.from_bytes(data.read(4), "big") for _ in range(dimensions))
            _copy_array(data, shape, target, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{file}' is cut off or damaged ({error}): fetch it again.") from None
    return shape[0]


def _copy_array(data: Any, shape: tuple[int, ...], target: Path, file: Path) -> None:
    with open(target, "wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        begin = out.tell()
        shutil.copyfileobj(data, out, _COPY_CHUNK)
        if out.tell() - begin != int(np.prod(shape, dtype=object)):
            raise InputError(
                f"'{file}' says that it holds {' x '.join(map(str, shape))} bytes and holds "
                f"{out.tell() - begin}: "
                f"fetch it again."
            )


def _lay_cifar(file: Path, names: list[str], folder: Path) -> None:
    pixels, labels = cifar.read(file, len(names))
    np.save(folder / "pixels.npy", pixels)
    npz.save_labels(folder, labels, names)
