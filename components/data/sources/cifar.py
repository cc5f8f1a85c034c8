"""CIFAR's Python batches, which are pickles, read safely."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.errors import InputError

_MAX_BYTES = 2_000_000_000
_SIDE = 32


def read(file: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (N, 32, 32, 3) and labels int64 (N,) of one batch.

    The layout is that of https://www.cs.toronto.edu/~kriz/cifar.html: rows of 1,024 red, 1,024 green and
    1,024 blue values. Raises InputError for any other file, and for a pickle that would run code.
    """
    batch = _load(file)
    data = batch.get("data")
    labels = batch.get("fine_labels", batch.get("labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * _SIDE**2,):
        raise InputError(f"'{file}' is not a CIFAR batch: its data are not rows of 3,072 bytes.")
    if labels is None or len(labels) != len(data):
        raise InputError(
            f"'{file}' is not a CIFAR batch: it does not have a label for each of its {len(data)} images."
        )
    indices = np.asarray(labels, np.int64)
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_classes:
        raise InputError(
            f"'{file}' has labels beyond the {num_classes} names of its meta file. Download it again."
        )
    return np.ascontiguousarray(data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)), indices


def label_names(file: Path) -> list[str]:
    """The names of the classes, from batches.meta (CIFAR-10) or meta (CIFAR-100)."""
    meta = _load(file)
    names = meta.get("fine_label_names", meta.get("label_names"))
    if not isinstance(names, list):
        raise InputError(f"'{file}' is not a CIFAR meta file: it has no label names.")
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def _load(file: Path) -> dict[str, Any]:
    if file.stat().st_size > _MAX_BYTES:
        raise InputError(f"'{file}' is larger than any CIFAR batch.")
    try:
        batch = _Unpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except InputError:
        raise InputError(
            f"'{file}' is a pickle of more than arrays, which may run code: it was not loaded."
        ) from None
    except Exception as error:  # A damaged pickle may raise anything.
        raise InputError(f"'{file}' cannot be read as a CIFAR batch ({error}): download it again.") from None
    if not isinstance(batch, dict):
        raise InputError(f"'{file}' is not a CIFAR batch: it holds a {type(batch).__name__}.")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in batch.items()}


class _Unpickler(pickle.Unpickler):
    """Loads NumPy arrays and nothing else, because a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise InputError(f"{module}.{name}")


def _empty(kind: type, shape: tuple[int, ...], code: Any) -> np.ndarray:
    return np.ndarray((0,), np.uint8)


def _dtype(code: Any, *options: Any) -> np.dtype:
    kind = np.dtype(code.decode() if isinstance(code, bytes) else code)
    if kind.hasobject:
        raise InputError("object arrays")
    return kind


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")
