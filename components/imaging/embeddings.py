"""Embeddings: images as vectors, so that similar images are close to each other.

The interface is a callable, `Embed`: encoded images -> float32 (N, D). There are three: a pretrained Keras
network with weights from a file (`keras_embed`), plain features that need no weights (`plain_embed`), and the
`embedding` signature of an exported model (serving/wire/contract.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.errors import InputError, StepError
from pergola.components.progress import Progress, silent
from pergola.serving.wire import images

Floats = npt.NDArray[np.floating]
Embed = Callable[[list[bytes]], npt.NDArray[np.float32]]

Network = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]  # pixels (n, side, side, 3) -> (n, D)

KERAS_NETWORKS = {"MobileNetV2": 1.0, "MobileNet": 0.25}  # in keras.applications -> width of its weights

PLAIN_SIDE = 64  # pixels per side of the square thumbnail that plain vectors are computed from

_SIDE, _CELL, _ANGLES, _COLOURS = PLAIN_SIDE, 8, 9, 8


@dataclass(frozen=True)
class Embedding:
    """How images are compared."""

    basis: str  # described for messages
    network: Network | None = None  # None: plain vectors
    side: int = PLAIN_SIDE  # pixels

    @property
    def is_pretrained(self) -> bool:
        """Whether the vectors come from a pretrained network."""
        return self.network is not None


PLAIN = Embedding("plain features of shape and colour (model.weights names no pretrained network)")


def embedding_for(architecture: str, weights: str, side: int = 224) -> Embedding:
    """The pretrained network that `model.architecture` and `model.weights` name; else plain vectors.

    Loads TensorFlow only for a network. Raises InputError for weights that are missing or do not fit.
    """
    from pergola.components.imaging.pretrained import FAMILIES, architecture_of

    if not weights:
        return PLAIN
    named = architecture_of(weights)
    name = architecture if architecture in FAMILIES else named
    if name is None:
        return PLAIN
    return Embedding(f"pretrained features ({name})", pretrained_network(name, weights, side), side)


def embed_all(
    encoded: Iterable[bytes],
    embed: Embed,
    *,
    batch_size: int = 64,
    total: int | None = None,
    progress: Progress = silent,
) -> npt.NDArray[np.float32]:
    """The vectors of all images, float32 (N, D), in order, with one batch of images in memory at a time.

    Raises StepError when `embed` gives a wrong shape or infinite numbers; InputError without images.
    """
    rows: list[npt.NDArray[np.float32]] = []
    with progress(total=total, desc="embed", unit="img") as bar:
        for batch in _batches(encoded, batch_size):
            found = np.asarray(embed(batch), np.float32)
            width = rows[0].shape[1] if rows else found.shape[-1]
            if found.shape != (len(batch), width) or not np.isfinite(found).all():
                raise StepError(
                    f"The embedding gave shape {found.shape} for {len(batch)} images, expected finite "
                    f"numbers of shape {(len(batch), width)}."
                )
            rows.append(found)
            bar.update(len(batch))
    if not rows:
        raise InputError("There are no images to embed.")
    return np.concatenate(rows)


def plain_embed(encoded: list[bytes]) -> npt.NDArray[np.float32]:
    """Features of shape and colour, without learned weights: float32 (N, 1956).

    Histograms of oriented gradients of a 64-pixel luma thumbnail (Dalal and Triggs 2005: 8-pixel cells,
    9 unsigned angles, blocks of 2 x 2 cells, clipped L2 norm), then an 8 x 8 thumbnail in RGB.
    Raises ValueError for bytes that are not an image.
    """
    return plain_vectors(np.stack([_pixels(data, PLAIN_SIDE) for data in encoded]))


def plain_vectors(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The vectors of `plain_embed` for thumbnails, uint8 (N, 64, 64, 3)."""
    pixels = thumbnails.astype(np.float32)
    colours = pixels.reshape(len(pixels), _COLOURS, _CELL, _COLOURS, _CELL, 3).mean(axis=(2, 4))
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    shapes = np.stack([_oriented_gradients(one) for one in luma])
    parts = (shapes.reshape(len(pixels), -1), colours.reshape(len(pixels), -1) / 127.5 - 1)
    return np.concatenate(parts, axis=1).astype(np.float32)


def keras_embed(weights: Path, network: str = "MobileNetV2", *, size_px: int = 224) -> Embed:
    """A pretrained network without its top, pooled: images -> float32 (N, D). Loads TensorFlow.

    weights: an .h5 file of keras.applications without top.  network: one of KERAS_NETWORKS; D is 1280 for
    MobileNetV2, 256 for MobileNet at a quarter of its width.
    Raises InputError for another network, a missing file, or weights of another network.
    """
    if network not in KERAS_NETWORKS:
        raise InputError(f"Network '{network}' is unknown. Expected one of {', '.join(KERAS_NETWORKS)}.")
    if not weights.is_file():
        raise InputError(f"The weights {weights} are missing: give an .h5 file of {network} without top.")
    from keras import applications

    module = {"MobileNetV2": applications.mobilenet_v2, "MobileNet": applications.mobilenet}[network]
    try:
        model = getattr(applications, network)(
            input_shape=(size_px, size_px, 3),
            alpha=KERAS_NETWORKS[network],
            include_top=False,
            weights=str(weights),
            pooling="avg",
        )
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The weights {weights} are not those of {network} without top: {reason}") from None

    def embed(encoded: list[bytes]) -> npt.NDArray[np.float32]:
        pixels = np.stack([_pixels(data, size_px) for data in encoded])
        answer = model.predict_on_batch(module.preprocess_input(pixels.astype(np.float32)))
        return np.asarray(answer, np.float32)

    return embed


def pretrained_network(architecture: str, weights: str, side: int) -> Network:
    """The pretrained network that training starts from, pooled. Loads TensorFlow.

    architecture, weights: as in components/imaging/pretrained.py.  side: pixels of its input.
    """
    import keras

    from pergola.components.imaging import pretrained

    inputs = keras.Input((side, side, 3), dtype="float32")
    model = keras.Model(inputs, pretrained.features(architecture, inputs, weights))

    def vectors(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(model.predict_on_batch(pixels.astype(np.float32)), np.float32)

    return vectors


def principal(embeddings: Floats, num_components: int) -> npt.NDArray[np.float32]:
    """The principal components of the embeddings, float32 (N, min(num_components, D)).

    Scaled to a mean squared norm of 1. The signs are fixed, because they depend on the BLAS library: each
    eigenvector's largest entry by absolute value is positive. Components beyond those of the data are 0.
    """
    from scipy.linalg import eigh

    centred = embeddings.astype(np.float32) - embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    few = len(centred) < centred.shape[1]  # then the products of images are the smaller matrix: seconds less
    products = (centred @ centred.T if few else centred.T @ centred).astype(np.float64) / len(centred)
    size = len(products)
    values, vectors = eigh(products, subset_by_index=(max(0, size - num_components), size - 1))
    if few:
        vectors = centred.T @ vectors
        lengths = np.linalg.norm(vectors, axis=0)
        vectors = np.where(lengths > 1e-5 * lengths.max(), vectors / np.maximum(lengths, 1e-12), 0.0)
    vectors *= np.where(vectors.max(axis=0) < -vectors.min(axis=0), -1.0, 1.0)
    scale = np.sqrt(max(float(values.clip(0).sum()), 1e-12))
    found = (centred @ vectors[:, ::-1].astype(np.float32) / np.float32(scale)).astype(np.float32)
    return np.pad(found, ((0, 0), (0, min(num_components, centred.shape[1]) - found.shape[1])))


def _batches(encoded: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    left = iter(encoded)
    while batch := list(islice(left, size)):
        yield batch


def _pixels(data: bytes, side: int) -> npt.NDArray[np.uint8]:
    """An upright RGB image squeezed to a square, uint8 (side, side, 3)."""
    with images.opened(data) as image:
        turn = images.orientation(image, data)
        if image.mode == "RGB":
            image.draft("RGB", (side, side))
        with images.decoding("it"):
            flat = images.flat(images.upright(image, turn)).convert("RGB")
        return np.asarray(flat.resize((side, side), Image.Resampling.BILINEAR))


def _oriented_gradients(luma: Floats) -> Floats:
    """Normalised blocks of angle histograms, float (7, 7, 36), of a luma image (64, 64)."""
    down, across = np.gradient(luma)
    strength = np.hypot(down, across)
    turns = (np.arctan2(down, across) % np.pi) / np.pi * _ANGLES - 0.5
    lower = np.floor(turns).astype(int)
    share = turns - lower
    rows, columns = np.indices(luma.shape) // _CELL
    cells = (rows * (_SIDE // _CELL) + columns) * _ANGLES
    size = (_SIDE // _CELL) ** 2 * _ANGLES
    histogram = np.bincount((cells + lower % _ANGLES).ravel(), (strength * (1 - share)).ravel(), size)
    histogram += np.bincount((cells + (lower + 1) % _ANGLES).ravel(), (strength * share).ravel(), size)
    grid = histogram.reshape(_SIDE // _CELL, _SIDE // _CELL, _ANGLES)
    blocks = np.concatenate([grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]], axis=2)
    for _ in range(2):
        norm = np.sqrt((blocks**2).sum(axis=2, keepdims=True) + 1e-4)
        blocks = np.minimum(blocks / norm, 0.2)
    return blocks
