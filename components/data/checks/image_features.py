"""Features of the images themselves: vectors, border colour, colourfulness and keypoints.

The scan reads grey thumbnails, because that is cheap. Checks on content need colour and a vector per image,
so here each image is decoded again, in several processes: at most `validate.max_inspected` of them, drawn at
random, so that neither time nor memory grows with the data.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Container, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.data.manifest import unique_images
from pergola.components.data.manifest.image_metadata import pillow_without_limits
from pergola.components.data.sources.source import Source
from pergola.components.errors import StepError
from pergola.components.imaging.embeddings import PLAIN_SIDE, Network, plain_vectors
from pergola.components.imaging.keypoints import KeypointRow, Keypoints, detect_keypoints
from pergola.components.progress import Progress, silent
from pergola.serving.wire import images

Floats = npt.NDArray[np.floating]
Pixels = npt.NDArray[np.uint8]

_BATCH = 64  # images
_WORTH_PROCESSES = 1000  # images; fewer are read before other processes have started
_DECODED_SIDE = 128  # JPEGs are decoded at no less than this, which is enough for a border
_COLOUR_SIDE = 32


@dataclass(frozen=True)
class ImageFeatures:
    """One row per image that was read, in order of the manifest.

    rows: int64 (N,), of the manifest.  vectors: float32 (N, D).  borders: float32 (N, 4), see `border_of`.
    colours: float32 (N,), see `colour_of`.
    """

    rows: npt.NDArray[np.int64]
    ids: list[str]
    paths: list[str]
    labels: list[str]
    vectors: Floats
    borders: Floats
    colours: Floats
    keypoints: Keypoints  # from which crops are found
    num_usable: int  # unique images that could have been read


def extract_features(
    source: Source,
    manifest_folder: Path,
    excluded: Container[str],
    *,
    max_images: int,
    seed: int = 0,
    network: Network | None = None,
    side: int = 224,
    keypoints: bool = True,
    progress: Progress = silent,
) -> ImageFeatures:
    """The features of the unique, readable images. excluded: paths that are not used.

    network: makes vectors from pixels of `side`; None: plain vectors (components/imaging/embeddings.py).
    A file that can no longer be read is skipped. Raises StepError when a process that reads images dies.
    """
    unique = unique_images.read(manifest_folder, excluded)
    order = np.argsort(unique.row)
    if len(order) > max_images:
        order = np.sort(np.random.default_rng(seed).choice(len(order), max_images, replace=False))
        order = np.argsort(unique.row)[order]
    paths = [path for _, block in unique_images.paths(manifest_folder, unique.row[order]) for path in block]
    batches: list[FeatureBatch] = []
    wanted = _Wanted(PLAIN_SIDE if network is None else side, network is None, keypoints)
    with progress(total=len(paths), desc="look", unit=" images") as bar:
        for batch in _read(source, paths, wanted):
            batches.append(batch if network is None else batch.embedded(network))
            bar.update(len(batch.is_read))
    is_read = np.concatenate([np.zeros(0, np.bool_), *(batch.is_read for batch in batches)])
    batches = [batch for batch in batches if batch.is_read.any()]
    order = order[is_read]
    return ImageFeatures(
        rows=unique.row[order],
        ids=[unique.hex(image) for image in order.tolist()],
        paths=[path for path, keep in zip(paths, is_read.tolist(), strict=True) if keep],
        labels=[unique.labels[number] for number in unique.label[order].tolist()],
        vectors=np.concatenate([b.vectors for b in batches]) if batches else np.zeros((0, 1), np.float32),
        borders=np.concatenate([np.zeros((0, 4), np.float32), *(b.borders for b in batches)]),
        colours=np.concatenate([np.zeros(0, np.float32), *(b.colours for b in batches)]),
        keypoints=Keypoints.of([row for b in batches for row in b.keypoints]),
        num_usable=len(unique.row),
    )


def border_of(pixels: Pixels) -> tuple[float, float, float, float]:
    """Mean red, green and blue of the outermost pixels of uint8 (H, W, 3), 0 to 255, and how much they vary.

    The outermost hundredth of each side counts, at least a pixel.
    """
    height, width = pixels.shape[:2]
    down, across = max(1, height // 100), max(1, width // 100)
    sides = (pixels[:down], pixels[-down:], pixels[:, :across], pixels[:, -across:])
    ring = np.concatenate([side.reshape(-1, 3) for side in sides]).astype(np.float32)
    red, green, blue = ring.mean(axis=0)
    return float(red), float(green), float(blue), float(ring.std(axis=0).mean())


def colour_of(image: Image.Image) -> float:
    """The colourfulness of an RGB image's most colourful twentieth, 0 (grey) to 113.

    The mean distance of the channels from their mean, in a thumbnail of 32 pixels per side. Only a twentieth
    counts because a small leaf on a white sheet has colour, too.
    """
    thumbnail = image.resize((_COLOUR_SIDE, _COLOUR_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(thumbnail).astype(np.float32)
    distances = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).mean(axis=2)
    return float(np.sort(distances, axis=None)[-_COLOUR_SIDE * _COLOUR_SIDE // 20 :].mean())


@dataclass(frozen=True)
class FeatureBatch:
    """Features of a few images.

    is_read: bool (n,), the images that could be read; everything else has a row for each of these.
    borders: float32 (m, 4).  colours: float32 (m,).
    pixels: uint8 (m, side, side, 3); empty once they are embedded.  vectors: float32 (m, D), from then on.
    """

    is_read: npt.NDArray[np.bool_]
    borders: Floats
    colours: Floats
    keypoints: tuple[KeypointRow, ...]
    pixels: Pixels
    vectors: Floats

    def embedded(self, vectors_of: Network) -> FeatureBatch:
        """With vectors in place of pixels."""
        vectors = vectors_of(self.pixels) if len(self.pixels) else self.vectors
        return replace(self, pixels=self.pixels[:0], vectors=vectors)


class _Wanted(NamedTuple):
    side: int  # of the pixels
    plain: bool  # also plain vectors
    keypoints: bool  # also keypoints


def read_batch(source: Source, paths: list[str], wanted: _Wanted) -> FeatureBatch:
    """Decode each image once. A file that can no longer be read is skipped."""
    side = wanted.side
    found: list[_Features] = []
    is_read = np.zeros(len(paths), np.bool_)
    with pillow_without_limits():
        for place, path in enumerate(paths):
            try:
                found.append(_features(source.read(path), wanted))
            except (OSError, ValueError):
                continue
            is_read[place] = True
    batch = FeatureBatch(
        is_read=is_read,
        borders=np.array([image.border for image in found], np.float32).reshape(-1, 4),
        colours=np.array([image.colour for image in found], np.float32),
        keypoints=tuple(image.keypoints for image in found if image.keypoints),
        pixels=np.array([image.pixels for image in found], np.uint8).reshape(-1, side, side, 3),
        vectors=np.zeros((0, 1), np.float32),
    )
    return batch.embedded(plain_vectors) if wanted.plain else batch


class _Features(NamedTuple):
    border: tuple[float, ...]
    colour: float
    keypoints: KeypointRow | None
    pixels: Pixels  # upright, squeezed to a square


def _features(data: bytes, wanted: _Wanted) -> _Features:
    side = wanted.side
    with images.opened(data) as image:
        turn = images.orientation(image, data)
        if image.mode == "RGB":
            image.draft("RGB", (max(side, _DECODED_SIDE),) * 2)
        with images.decoding("it"):
            flat = images.flat(images.upright(image, turn)).convert("RGB")
    small = flat.resize((side, side), Image.Resampling.BILINEAR)
    return _Features(
        border_of(np.asarray(flat)),
        colour_of(small),
        detect_keypoints(flat) if wanted.keypoints else None,
        np.asarray(small),
    )


def _read(source: Source, paths: list[str], wanted: _Wanted) -> Iterator[FeatureBatch]:
    """Batches in their order, with at most a few read ahead of the caller."""
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    workers = len(os.sched_getaffinity(0))
    if workers == 1 or len(paths) < _WORTH_PROCESSES:
        yield from (read_batch(source, batch, wanted) for batch in batches)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ahead: deque[Future[FeatureBatch]] = deque()
        try:
            for batch in batches:
                ahead.append(pool.submit(read_batch, source, batch, wanted))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenExecutor:
            raise StepError(
                "A process that looked at images died, most likely of too little memory: "
                "lower validate.max_inspected or scan.max_pixels."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
