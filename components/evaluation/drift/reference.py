"""The drift reference of a released model: its test split as the model saw it.

reference = make_reference(describe(images, probabilities, embed), labels, confusion, folder)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components import records
from pergola.components.artifacts.data import TEST
from pergola.components.artifacts.evaluation import Evaluation
from pergola.components.artifacts.record import Record
from pergola.components.data.shard_reader import ShardImage, read_images
from pergola.components.errors import InputError
from pergola.components.imaging.embeddings import Embed, embed_all
from pergola.components.progress import Progress, silent

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

STATISTICS = ("brightness", "contrast", "sharpness", "width", "height", "bytes")
MAX_REFERENCE = 5000
_TABLE = "drift_reference.parquet"


@dataclass(frozen=True)
class Sample:
    """N images with a model's predictions, in order of time."""

    predicted: Ints  # (N,), index of the predicted class
    confidence: Floats  # (N,), probability of the predicted class
    statistics: Mapping[str, Floats] = field(default_factory=dict)  # column -> (N,); nan where unknown
    embeddings: Floats | None = None  # (M, D), of the images `embedded`
    embedded: Ints | None = None  # (M,), ascending; None: all N

    @property
    def all_embedded(self) -> bool:
        """Whether every image has an embedding."""
        return self.embeddings is not None and len(self.embeddings) == len(self)

    def __len__(self) -> int:
        return len(self.predicted)

    def rows(self, chosen: Ints | slice) -> Sample:
        """Some of the images."""
        columns = {name: values[chosen] for name, values in self.statistics.items()}
        vectors, embedded = self._vectors_of(np.arange(len(self))[chosen])
        return Sample(self.predicted[chosen], self.confidence[chosen], columns, vectors, embedded)

    def _vectors_of(self, rows: Ints) -> tuple[Floats | None, Ints | None]:
        if self.embeddings is None or self.embedded is None:
            return (None if self.embeddings is None else self.embeddings[rows]), None
        place = np.full(len(self), -1)
        place[self.embedded] = np.arange(len(self.embedded))
        places = place[rows]
        return self.embeddings[places[places >= 0]], np.flatnonzero(places >= 0)


@dataclass(frozen=True)
class DriftReference(Record):
    """The test split as a released model saw it. Rows in drift_reference.parquet:

    predicted int32, confidence float32, one float32 column per statistic, embedding list<float16> or null
    """

    FILE: ClassVar[str] = "drift_reference.json"

    labels: tuple[str, ...]
    num_images: int
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted], of the whole test split
    statistics: tuple[str, ...]
    width: int  # of the embedding; 0 if there is none

    @staticmethod
    def sample(folder: Path) -> Sample:
        """The rows."""
        import pyarrow.parquet as parquet

        table = parquet.read_table(folder / _TABLE)
        reference = DriftReference.load(folder)
        columns = {name: np.asarray(table[name], np.float32) for name in reference.statistics}
        vectors = None
        if reference.width:
            flat = table["embedding"].combine_chunks().flatten()
            vectors = np.asarray(flat, np.float16).astype(np.float32).reshape(-1, reference.width)
        predicted, confidence = np.asarray(table["predicted"]), np.asarray(table["confidence"], np.float32)
        return Sample(predicted.astype(np.int64), confidence, columns, vectors)


def reference_of(
    shards_folder: Path,
    evaluation_folder: Path,
    embed: Embed,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = silent,
) -> DriftReference:
    """Write the reference of a released model from its test split, one batch of images in memory at a time.

    embed: of the released model.  Raises InputError if the evaluation is about other images.
    """
    evaluation = Evaluation.load(evaluation_folder)
    answers = _probabilities(evaluation_folder)
    chosen = sorted(answers)
    if len(chosen) > MAX_REFERENCE:
        rows = np.random.default_rng(seed).choice(len(chosen), MAX_REFERENCE, replace=False)
        chosen = [chosen[row] for row in np.sort(rows)]
    wanted = frozenset(chosen)
    parts = []
    with progress(total=len(chosen), desc="reference", unit="img") as bar:
        for batch in _batches(read_images(shards_folder, TEST, wanted), batch_size):
            probabilities = np.stack([answers[one.id] for one in batch])
            parts.append(describe([one.image for one in batch], probabilities, embed, batch_size=batch_size))
            bar.update(len(batch))
    if sum(map(len, parts)) != len(chosen):
        raise InputError(
            f"The evaluation in {evaluation_folder} is about other images than the test split in "
            f"{shards_folder}. Evaluate the model again."
        )
    confusion = np.array(evaluation.confusion, np.int64)
    return make_reference(concatenated(parts), evaluation.labels, confusion, out, seed=seed)


def concatenated(parts: Sequence[Sample]) -> Sample:
    """At least one sample with the same columns, concatenated."""
    starts = np.cumsum([0, *map(len, parts)])
    with_vectors = [
        (start, one) for start, one in zip(starts, parts, strict=False) if one.embeddings is not None
    ]
    rows = [
        start + (np.arange(len(one)) if one.embedded is None else one.embedded) for start, one in with_vectors
    ]
    vectors = [
        one.embeddings for _, one in with_vectors if one.embeddings is not None and len(one.embeddings)
    ]
    embedded = np.concatenate(rows) if rows else None
    return Sample(
        np.concatenate([one.predicted for one in parts]),
        np.concatenate([one.confidence for one in parts]),
        {name: np.concatenate([one.statistics[name] for one in parts]) for name in parts[0].statistics},
        np.concatenate(vectors) if vectors else None,
        embedded if embedded is not None and len(embedded) < starts[-1] else None,
    )


def describe(
    encoded: Sequence[bytes], probabilities: Floats, embed: Embed | None = None, *, batch_size: int = 64
) -> Sample:
    """A sample of images and a model's probabilities, (N, C). Statistics are those of the manifest.

    An unreadable image has nan statistics.  embed: None for a sample without embeddings.
    """
    from pergola.components.data.manifest import image_metadata
    from pergola.serving.wire.images import MAX_PIXELS

    limits = image_metadata.ImageLimits(MAX_PIXELS, max_side=1 << 20, max_bytes=1 << 30)
    with image_metadata.pillow_without_limits(), ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda data: image_metadata.inspect(data, limits), encoded))
    columns = {
        name: np.array([np.nan if image.reason else getattr(image, name) for image in images], np.float32)
        for name in STATISTICS
    }
    vectors = embed_all(encoded, embed, batch_size=batch_size) if embed is not None else None
    return Sample(probabilities.argmax(axis=1), probabilities.max(axis=1), columns, vectors)


def make_reference(
    sample: Sample, labels: Sequence[str], confusion: Ints, out: Path, *, seed: int = 0
) -> DriftReference:
    """Write the reference of a released model: drift_reference.json and .parquet; at most 5,000 rows.

    sample: the test split as the exported model saw it.  confusion: int (C, C), [true][predicted], of it.
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    if len(sample) > MAX_REFERENCE:
        chosen = np.random.default_rng(seed).choice(len(sample), MAX_REFERENCE, replace=False)
        sample = sample.rows(np.sort(chosen))
    columns = {
        "predicted": arrow.array(sample.predicted, arrow.int32()),
        "confidence": arrow.array(sample.confidence, arrow.float32()),
        **{name: arrow.array(values, arrow.float32()) for name, values in sample.statistics.items()},
    }
    if sample.embeddings is not None:
        flat = arrow.array(sample.embeddings.astype(np.float16).ravel())
        columns["embedding"] = arrow.FixedSizeListArray.from_arrays(flat, sample.embeddings.shape[1])
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns), sink)
    records.write_atomic(out / _TABLE, sink.getvalue().to_pybytes())
    reference = DriftReference(
        labels=tuple(labels),
        num_images=len(sample),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        statistics=tuple(sample.statistics),
        width=0 if sample.embeddings is None else sample.embeddings.shape[1],
    )
    reference.save(out)
    return reference


def _probabilities(evaluation_folder: Path) -> dict[str, Floats]:
    """Id of a test image -> its probabilities, (C,)."""
    import pyarrow.parquet as parquet

    table = parquet.read_table(evaluation_folder / "predictions.parquet", columns=["id", "probabilities"])
    rows = np.array(table["probabilities"].to_pylist(), np.float32)
    return dict(zip(table["id"].to_pylist(), rows, strict=True))


def _batches(found: Iterator[ShardImage], size: int) -> Iterator[list[ShardImage]]:
    while batch := list(islice(found, size)):
        yield batch
