"""What a released model saw in its test part, kept beside it to notice later that the world has moved.

reference = make_reference(describe(images, probabilities, embed), labels, confusion, folder)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from components import records
from components.artifacts import Record
from components.data.embeddings import Embed, embed_all

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

STATISTICS = ("brightness", "contrast", "sharpness", "width", "height", "bytes")
MAX_REFERENCE = 5000
_TABLE = "drift_reference.parquet"


@dataclass(frozen=True)
class Sample:
    """N pictures as a model saw them, in order of time."""

    predicted: Ints  # (N,), index of the answered class
    confidence: Floats  # (N,), probability of the answered class
    statistics: Mapping[str, Floats] = field(default_factory=dict)  # column -> (N,); nan where unknown
    embeddings: Floats | None = None  # (N, D)

    def __len__(self) -> int:
        return len(self.predicted)

    def rows(self, chosen: Ints | slice) -> Sample:
        """Some of the pictures."""
        vectors = None if self.embeddings is None else self.embeddings[chosen]
        columns = {name: values[chosen] for name, values in self.statistics.items()}
        return Sample(self.predicted[chosen], self.confidence[chosen], columns, vectors)


@dataclass(frozen=True)
class DriftReference(Record):
    """What a released model saw in its test part. drift_reference.parquet beside it holds the rows:

    predicted int32, confidence float32, a float32 column a statistic, embedding list<float16> or null
    """

    FILE: ClassVar[str] = "drift_reference.json"

    labels: tuple[str, ...]
    num_images: int
    confusion: tuple[tuple[int, ...], ...]  # [true][predicted], of the whole test part
    statistics: tuple[str, ...]
    width: int  # of the embedding; 0 when there is none

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


def describe(
    encoded: Sequence[bytes], probabilities: Floats, embed: Embed | None = None, *, batch_size: int = 64
) -> Sample:
    """Pictures and a model's answers to them, (N, C), as a sample. Statistics are those of the manifest.

    A picture that cannot be read has nan statistics.
    """
    from components.data import probe

    limits = probe.Limits(max_pixels=1 << 28, max_side=1 << 20, max_bytes=1 << 30)
    with probe.pillow_as_is():
        looks = [probe.look(data, limits) for data in encoded]
    columns = {
        name: np.array([np.nan if look.reason else getattr(look, name) for look in looks], np.float32)
        for name in STATISTICS
    }
    vectors = embed_all(encoded, embed, batch_size=batch_size) if embed is not None else None
    return Sample(probabilities.argmax(axis=1), probabilities.max(axis=1), columns, vectors)


def make_reference(
    sample: Sample, labels: Sequence[str], confusion: Ints, out: Path, *, seed: int = 0
) -> DriftReference:
    """Write the reference of a released model: drift_reference.json and .parquet; at most 5,000 rows of it.

    sample: the test part as the exported model saw it.  confusion: int (C, C), [true][predicted], of it.
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
