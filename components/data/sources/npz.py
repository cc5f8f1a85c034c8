"""Images in an .npz: finds the arrays of images and labels, and extracts them as plain .npy files."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.data.sources.split_names import SPLIT_NAMES
from pergola.components.errors import InputError

_NAMES = {
    "x": ("x_{0}", "{0}_images", "{0}_x", "images_{0}", "{0}_data"),
    "y": ("y_{0}", "{0}_labels", "{0}_y", "labels_{0}", "{0}_targets"),
}
_NAMES_WITHOUT_SPLIT = {"x": ("images", "x", "data"), "y": ("labels", "y", "targets")}
_COPY_CHUNK = 1 << 22


def extract(file: Path, max_bytes: int, folder: Path) -> None:
    """Extract each split of an .npz to `<folder>/<train, validation, test or all>/{pixels,labels}.npy`.

    Nothing is unpickled. Raises InputError for unknown names, and for unsupported dtypes and shapes.
    """
    try:
        with zipfile.ZipFile(file) as zipped:
            members = {i.filename.removesuffix(".npy"): i for i in zipped.infolist()}
            if sum(i.file_size for i in members.values()) > max_bytes:
                raise InputError(
                    f"'{file}' unpacks to more than {max_bytes} bytes: raise scan.max_archive_bytes."
                )
            for split, x, y in _pairs(file, set(members)):
                target = folder / (split or "all")
                target.mkdir()
                with zipped.open(members[x]) as source, open(target / "pixels.npy", "wb") as copy:
                    shutil.copyfileobj(source, copy, _COPY_CHUNK)
                _check_pixels(target / "pixels.npy", file, x)
                labels = _array(zipped.read(members[y]), file, y)
                names = (
                    _array(zipped.read(members["label_names"]), file, "")
                    if "label_names" in members
                    else None
                )
                save_labels(target, *_labels(labels, names, len(_mapped(target / "pixels.npy")), file, y))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"'{file}' is truncated or damaged ({error}): download it again.") from None


def save_labels(folder: Path, labels: np.ndarray, names: list[str]) -> None:
    """Write labels.npy (int64, indices into names) and names.json."""
    np.save(folder / "labels.npy", labels.astype(np.int64))
    (folder / "names.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")


def _pairs(file: Path, names: set[str]) -> list[tuple[str | None, str, str]]:
    pairs: list[tuple[str | None, str, str]] = []
    for split in ("train", "validation", "val", "valid", "test"):
        x = next((w.format(split) for w in _NAMES["x"] if w.format(split) in names), None)
        y = next((w.format(split) for w in _NAMES["y"] if w.format(split) in names), None)
        if x and y:
            pairs.append((SPLIT_NAMES[split], x, y))
    x = next((w for w in _NAMES_WITHOUT_SPLIT["x"] if w in names), None)
    y = next((w for w in _NAMES_WITHOUT_SPLIT["y"] if w in names), None)
    if not pairs and x and y:
        pairs.append((None, x, y))
    if not pairs:
        raise InputError(
            f"'{file}' holds {', '.join(sorted(names)) or 'nothing'}: expected x_train and y_train (x_test, "
            "y_test), or images and labels."
        )
    return pairs


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _check_pixels(path: Path, file: Path, name: str) -> None:
    try:
        pixels = _mapped(path)
    except ValueError as error:
        raise InputError(f"'{file}': {name} cannot be read ({error}).") from None
    if pixels.ndim == 4 and pixels.shape[3] == 1 and pixels.dtype == np.uint8:
        np.save(path.with_name("grey.npy"), pixels[..., 0])
        path.with_name("grey.npy").replace(path)
        return
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise InputError(
            f"'{file}': {name} is {pixels.dtype} with shape {pixels.shape}, expected uint8, 0 to 255, with "
            "shape (images, height, width) or (images, height, width, 3)."
        )
    if not pixels.flags.c_contiguous:
        np.save(path.with_name("rows.npy"), np.ascontiguousarray(pixels))
        path.with_name("rows.npy").replace(path)


def _array(data: bytes, file: Path, name: str) -> np.ndarray:
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise InputError(f"'{file}': {name} cannot be read ({error}).") from None


def _labels(
    labels: np.ndarray, names: np.ndarray | None, count: int, file: Path, name: str
) -> tuple[np.ndarray, list[str]]:
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (count,) or flat.dtype.kind not in "iuUS":
        raise InputError(
            f"'{file}': {name} is {labels.dtype} with shape {labels.shape}, expected {count} integers or "
            "texts."
        )
    if flat.dtype.kind in "US":
        texts, indices = np.unique(flat.astype(str), return_inverse=True)
        return indices, [str(text) for text in texts]
    values, indices = np.unique(flat, return_inverse=True)
    if names is not None and len(values) and values.min() >= 0 and values.max() < len(names):
        return flat, [str(text) for text in names]
    return indices, [str(value) for value in values]
