"""Images in array files: IDX (MNIST), CIFAR's Python batches, .npz.

Each file's pixels are extracted once to a plain .npy in the scratch folder and memory-mapped from there, so
that an image is read without the others. An image's bytes are a Netpbm file: "P5" (grey) or "P6" (colour),
size, 255, and the pixels.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.artifacts.data import INFO, TEST, TRAIN, VALIDATION, Finding
from pergola.components.data.sources import cifar, npz
from pergola.components.data.sources.archives import staged
from pergola.components.data.sources.labels import check_labels
from pergola.components.data.sources.source import Entry, Stamp
from pergola.components.data.sources.split_names import SPLIT_NAMES
from pergola.components.errors import InputError

_IDX = re.compile(r"(?P<before>.*?)-?images[-.]idx3-ubyte(?P<gz>\.gz)?$", re.IGNORECASE)
_IDX_SPLITS = {"train": TRAIN, "t10k": TEST, "test": TEST, "val": VALIDATION}
_CIFAR10 = {f"data_batch_{n}": TRAIN for n in range(1, 6)} | {"test_batch": TEST}
_CIFAR100 = {"train": TRAIN, "test": TEST}
_COPY_CHUNK = 1 << 22


@dataclass(frozen=True)
class ArrayFile:
    """The images and labels of one array file."""

    name: str  # as it appears in paths, before "#"
    pixels: Path  # .npy, uint8 (N, H, W) or (N, H, W, 3)
    labels: Path  # .npy, int64 (N,), indices into names
    names: tuple[str, ...]
    given_split: str | None
    stamp: Stamp


@dataclass(frozen=True)
class ArraySource:
    """Array files, extracted so that one image can be read at a time."""

    kind: str
    scratch: Path
    files: tuple[ArrayFile, ...]
    columns: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def entries(self) -> Iterator[Entry]:
        """Every image, in order of path."""
        for file in sorted(self.files, key=lambda file: file.name + "#"):
            labels = np.load(file.labels, mmap_mode="r")
            digits = len(str(len(labels) - 1))
            num_bytes = len(netpbm(_mapped(file.pixels)[0])) if len(labels) else 0
            for number, label in enumerate(labels):
                path = f"{file.name}#{number:0{digits}}"
                yield Entry(path, file.names[label], file.given_split, file.stamp, num_bytes)

    def read(self, path: str) -> bytes:
        name, _, number = path.rpartition("#")
        file = next((file for file in self.files if file.name == name), None)
        if file is None or not number.isdecimal():
            raise FileNotFoundError(f"'{path}' is not in this data set.")
        pixels = _mapped(file.pixels)
        if int(number) >= len(pixels):
            raise FileNotFoundError(f"'{path}' is beyond the {len(pixels)} images of its file.")
        return netpbm(pixels[int(number)])


def netpbm(image: np.ndarray) -> bytes:
    """A Netpbm file of uint8 pixels (H, W) or (H, W, 3)."""
    kind = b"P5" if image.ndim == 2 else b"P6"
    return kind + f"\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes()


def is_idx(name: str) -> bool:
    """Whether a file holds images in IDX format, by its name."""
    return _IDX.match(name) is not None


def is_cifar(names: list[str]) -> bool:
    """Whether a folder with these names holds the Python batches of CIFAR-10 or CIFAR-100."""
    return {"data_batch_1", "batches.meta"} <= set(names) or {"train", "test", "meta"} <= set(names)


def open_idx(location: Path, scratch: Path) -> ArraySource:
    """The pairs `<before>images-idx3-ubyte[.gz]` and `<before>labels-idx1-ubyte[.gz]` of one data set.

    location: the folder, or one of its files of images, by which the data set is named: the pairs whose names
    differ from its name in the word for the split alone.
    Raises InputError for a folder with several data sets, such as EMNIST's letters and digits.
    """
    folder = location if location.is_dir() else location.parent
    pairs, twice = _idx_files(location, folder)
    files = []
    for file in pairs:
        labels = _idx_labels(file)
        extracted = staged(scratch, [file, labels], functools.partial(_extract_idx, file, labels))
        files.append(_array_file(extracted, file, file.name, _IDX_SPLITS.get(_idx_word(file.name))))
    source = _source("idx", scratch, files, folder)
    message = f"Left out, since unpacked as well: {', '.join(twice)}."
    left_out = (Finding("left_out", INFO, len(twice), twice, message),) if twice else ()
    return replace(source, findings=left_out)


def _idx_files(location: Path, folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The files of images of one data set, and the names of those that are there unpacked, too."""
    found = sorted(file for file in folder.iterdir() if is_idx(file.name))
    twice = [file for file in found if file.suffix == ".gz" and file.with_suffix("") in found]
    sets: dict[str, list[Path]] = {}
    for file in (file for file in found if file not in twice):
        sets.setdefault(_idx_set(file.name), []).append(file)
    if location != folder:
        sets = {_idx_set(location.name): sets[_idx_set(location.name)]}
    if len(sets) > 1:
        names = ", ".join(f"'{files[0].name}'" for files in sets.values())
        raise InputError(
            f"'{folder}' holds {len(sets)} data sets of IDX files: name a file of the one that is meant, "
            f"such as {names}."
        )
    return next(iter(sets.values())), tuple(file.name for file in twice if _idx_set(file.name) in sets)


def _idx_word(name: str) -> str:
    """The word for the split in a name; empty without one."""
    return next((word for word in _IDX_SPLITS if word in name.lower()), "")


def _idx_set(name: str) -> str:
    """What the names of all pairs of a data set have in common."""
    word = _idx_word(name)
    plain = name.lower().removesuffix(".gz")
    return plain.replace(word, "*", 1) if word else plain


def open_cifar(folder: Path, scratch: Path) -> ArraySource:
    """CIFAR-10's data_batch_1 … test_batch, or CIFAR-100's train and test (with fine labels)."""
    ten = (folder / "data_batch_1").is_file()
    meta = folder / ("batches.meta" if ten else "meta")
    names = cifar.label_names(meta)
    files = []
    for name, split in (_CIFAR10 if ten else _CIFAR100).items():
        file = folder / name
        if not file.is_file():
            continue
        extracted = staged(scratch, [file, meta], functools.partial(_extract_cifar, file, names))
        files.append(_array_file(extracted, file, name, split))
    return _source("cifar", scratch, files, folder)


def open_npz(file: Path, scratch: Path, *, max_bytes: int) -> ArraySource:
    """x_train and y_train, x_test and y_test (or train_images, train_labels, …), or images and labels."""
    extracted = staged(scratch, [file], functools.partial(npz.extract, file, max_bytes))
    files = []
    for folder in sorted(extracted.iterdir()):
        split = SPLIT_NAMES.get(folder.name)
        files.append(_array_file(folder, file, f"{file.name}/{folder.name}" if split else file.name, split))
    return _source("npz", scratch, files, file)


def _array_file(extracted: Path, file: Path, name: str, split: str | None) -> ArrayFile:
    info = file.stat()
    names = tuple(json.loads((extracted / "names.json").read_text(encoding="utf-8")))
    stamp = (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return ArrayFile(name, extracted / "pixels.npy", extracted / "labels.npy", names, split, stamp)


def _source(kind: str, scratch: Path, files: list[ArrayFile], where: Path) -> ArraySource:
    check_labels({name for file in files for name in file.names}, where)
    if not any(len(np.load(file.labels, mmap_mode="r")) for file in files):
        raise InputError(f"'{where}' holds no images.")
    return ArraySource(kind, scratch, tuple(files))


@functools.lru_cache(maxsize=32)
def _mapped(pixels: Path) -> np.ndarray:
    # The path contains a digest of the file's stamp, so a cached array is never out of date.
    return np.load(pixels, mmap_mode="r")


def _idx_labels(images: Path) -> Path:
    name = re.sub("images", "labels", images.name, flags=re.IGNORECASE).replace("idx3", "idx1")
    for candidate in (name, name.removesuffix(".gz"), f"{name}.gz"):
        if (images.parent / candidate).is_file():
            return images.parent / candidate
    raise InputError(f"'{images}' has no labels beside it: expected '{name}' in the same folder.")


def _extract_idx(images: Path, labels: Path, folder: Path) -> None:
    count = _copy_idx(images, 3, folder / "pixels.npy")
    if _copy_idx(labels, 1, folder / "labels.npy") != count:
        raise InputError(f"'{images}' and '{labels.name}' do not hold the same number of images and labels.")
    values = np.load(folder / "labels.npy")
    npz.save_labels(folder, values, [str(n) for n in range(int(values.max(initial=0)) + 1)])


def _copy_idx(file: Path, dimensions: int, target: Path) -> int:
    """IDX (http://yann.lecun.com/exdb/mnist) as .npy; returns the number of items."""
    try:
        with gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb") as data:
            head = data.read(4)
            if head != bytes((0, 0, 8, dimensions)):
                raise InputError(f"'{file}' is not an IDX file of bytes in {dimensions} dimensions.")
            shape = tuple(int.from_bytes(data.read(4), "big") for _ in range(dimensions))
            _copy_array(data, shape, target, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"'{file}' is truncated or damaged ({error}): download it again.") from None
    return shape[0]


def _copy_array(data: Any, shape: tuple[int, ...], target: Path, file: Path) -> None:
    with open(target, "wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        begin = out.tell()
        shutil.copyfileobj(data, out, _COPY_CHUNK)
        if out.tell() - begin != int(np.prod(shape, dtype=object)):
            raise InputError(
                f"'{file}' should hold {' x '.join(map(str, shape))} bytes and holds {out.tell() - begin}: "
                "download it again."
            )


def _extract_cifar(file: Path, names: list[str], folder: Path) -> None:
    pixels, labels = cifar.read(file, len(names))
    np.save(folder / "pixels.npy", pixels)
    npz.save_labels(folder, labels, names)
