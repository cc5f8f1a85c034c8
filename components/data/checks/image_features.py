"""What the images themselves show: the colour of their border, how colourful they are, what they are like.

The scan reads grey thumbnails, because that is cheap. The checks of components/data/checks/content_checks.py
want colour and a vector an image. So here each image is decoded once more, in several processes, and at
most `validate.max_looked_at` of them, drawn by chance, so that neither time nor memory grow with the data.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.checks.crops import Points, Row, points_of
from pergola.components.data.checks.outliers import colour_of
from pergola.components.data.checks.shortcuts import border_of
from pergola.components.data.manifest import unique_images
from pergola.components.data.manifest.image_metadata import pillow_as_is
from pergola.components.data.sources.source import Source
from pergola.components.errors import StepError
from pergola.components.imaging.embeddings import PLAIN_SIDE, Network, plain_vectors
from pergola.components.progress import Progress, silent
from pergola.serving.wire import images

Floats = npt.NDArray[np.floating]
Pixels = npt.NDArray[np.uint8]

_PORTION = 64  # images
_WORTH_PROCESSES = 1000  # images; fewer are read before other processes have started
_DECODED_SIDE = 128  # of a JPEG at least so much is decoded, enough for a border


@dataclass(frozen=True)
class Contents:
    """A row an image that was looked at, in order of the manifest.

    rows: int64 (N,), of the manifest.  vectors: float32 (N, D).  borders: float32 (N, 4), see
    components/data/checks/shortcuts.py.  colours: float32 (N,), 0 (grey) to 113.
    """

    rows: npt.NDArray[np.int64]
    ids: list[str]
    paths: list[str]
    labels: list[str]
    vectors: Floats
    borders: Floats
    colours: Floats
    points: Points  # by which crops are found
    num_usable: int  # distinct images that could have been looked at


def look(
    source: Source,
    manifest_folder: Path,
    report: ValidationReport,
    *,
    max_images: int,
    seed: int = 0,
    network: Network | None = None,
    side: int = 224,
    points: bool = True,
    progress: Progress = silent,
) -> Contents:
    """Look at the distinct, readable images that the report does not keep out.

    network: makes the vectors from pixels of `side`; None: plain ones (components/imaging/embeddings.py).
    points: also find those by which crops are told.
    A file that cannot be read any more is passed over. Raises StepError when a process that reads dies.
    """
    pictures = unique_images.read(manifest_folder, report.quarantined)
    order = np.argsort(pictures.row)
    if len(order) > max_images:
        order = np.sort(np.random.default_rng(seed).choice(len(order), max_images, replace=False))
        order = np.argsort(pictures.row)[order]
    paths = [path for _, some in unique_images.paths(manifest_folder, pictures.row[order]) for path in some]
    seen: list[Portion] = []
    size = PLAIN_SIDE if network is None else side
    with progress(total=len(paths), desc="look", unit=" images") as bar:
        for portion in _read(source, paths, _Wanted(size, network is None, points)):
            seen.append(portion if network is None else portion.described(network))
            bar.update(len(portion.kept))
    kept = np.concatenate([np.zeros(0, np.bool_), *(portion.kept for portion in seen)])
    some = [portion for portion in seen if portion.kept.any()]
    order = order[kept]
    return Contents(
        rows=pictures.row[order],
        ids=[pictures.hex(place) for place in order.tolist()],
        paths=[path for path, keep in zip(paths, kept.tolist(), strict=True) if keep],
        labels=[pictures.labels[number] for number in pictures.label[order].tolist()],
        vectors=np.concatenate([p.vectors for p in some]) if some else np.zeros((0, 1), np.float32),
        borders=np.concatenate([np.zeros((0, 4), np.float32), *(p.borders for p in some)]),
        colours=np.concatenate([np.zeros(0, np.float32), *(p.colours for p in some)]),
        points=Points.of([row for p in some for row in p.points]),
        num_usable=len(pictures.row),
    )


@dataclass(frozen=True)
class Portion:
    """A few images. kept: which of them could be read, bool (n,); all else has a row for each of these.

    borders: float32 (m, 4).  colours: float32 (m,).  points: rows of components/data/checks/crops.py.
    pixels: uint8 (m, side, side, 3), or nothing any more.  vectors: float32 (m, D), once it is described.
    """

    kept: npt.NDArray[np.bool_]
    borders: Floats
    colours: Floats
    points: tuple[Row, ...]
    pixels: Pixels
    vectors: Floats

    def described(self, vectors_of: Network) -> Portion:
        """With vectors in place of pixels."""
        vectors = vectors_of(self.pixels) if len(self.pixels) else self.vectors
        return replace(self, pixels=self.pixels[:0], vectors=vectors)


class _Wanted(NamedTuple):
    side: int  # of the pixels
    plain: bool  # with plain vectors
    points: bool  # with points


def read_portion(source: Source, paths: list[str], wanted: _Wanted) -> Portion:
    """Decode each image once; what cannot be read any more is passed over."""
    side = wanted.side
    found: list[_Glimpse] = []
    kept = np.zeros(len(paths), np.bool_)
    with pillow_as_is():
        for place, path in enumerate(paths):
            try:
                found.append(_glimpse(source.read(path), wanted))
            except (OSError, ValueError):
                continue
            kept[place] = True
    portion = Portion(
        kept=kept,
        borders=np.array([glimpse.border for glimpse in found], np.float32).reshape(-1, 4),
        colours=np.array([glimpse.colour for glimpse in found], np.float32),
        points=tuple(glimpse.points for glimpse in found if glimpse.points),
        pixels=np.array([glimpse.pixels for glimpse in found], np.uint8).reshape(-1, side, side, 3),
        vectors=np.zeros((0, 1), np.float32),
    )
    return portion.described(plain_vectors) if wanted.plain else portion


class _Glimpse(NamedTuple):
    border: tuple[float, ...]
    colour: float
    points: Row | None
    pixels: Pixels  # upright, squeezed to a square


def _glimpse(data: bytes, wanted: _Wanted) -> _Glimpse:
    side = wanted.side
    with images.opened(data) as image:
        turn = images.orientation(image, data)
        if image.mode == "RGB":
            image.draft("RGB", (max(side, _DECODED_SIDE),) * 2)
        with images.decoding("it"):
            flat = images.flat(images.upright(image, turn)).convert("RGB")
    small = flat.resize((side, side), Image.Resampling.BILINEAR)
    return _Glimpse(
        border_of(np.asarray(flat)),
        colour_of(small),
        points_of(flat) if wanted.points else None,
        np.asarray(small),
    )


def _read(source: Source, paths: list[str], wanted: _Wanted) -> Iterator[Portion]:
    """Portions in order, a few of them ahead of the caller."""
    portions = [paths[start : start + _PORTION] for start in range(0, len(paths), _PORTION)]
    workers = len(os.sched_getaffinity(0))
    if workers == 1 or len(paths) < _WORTH_PROCESSES:
        yield from (read_portion(source, portion, wanted) for portion in portions)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        ahead: deque[Future[Portion]] = deque()
        try:
            for portion in portions:
                ahead.append(pool.submit(read_portion, source, portion, wanted))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenExecutor:
            raise StepError(
                "A process that looked at images died, most likely of too little memory: "
                "lower validate.max_looked_at or scan.max_pixels."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
