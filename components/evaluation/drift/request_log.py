"""Requests and responses from a server's request log, read without TensorFlow.

The log is TF-Serving's: TFRecord files of PredictionLog (tensorflow_serving/apis/prediction_log.proto), as
written by our server and the stock one. Only Predict requests of encoded images with their probabilities
are used (serving/wire/contract.py); others are skipped. A process that died may leave its last record
truncated.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pergola.components.errors import InputError
from pergola.components.evaluation.drift.reference import Sample, concatenated, describe
from pergola.components.imaging.embeddings import Embed, embed_all
from pergola.components.progress import Progress, silent
from pergola.serving.wire import contract, prediction_log, tensors


@dataclass(frozen=True)
class Logged:
    """One image of a request, and the response."""

    version: int  # of the model
    at_s: int  # seconds since 1970
    image: bytes  # encoded
    probabilities: npt.NDArray[np.float32]  # (C,)


def log_files(prefix: str) -> list[Path]:
    """The files of a log, oldest first, whose names start with `prefix`, a setting of the server.

    Raises InputError if there are none.
    """
    start = Path(prefix)
    found = sorted(start.parent.glob(f"{_literal(start.name)}-*.tfrecord"))
    if not found:
        raise InputError(
            f"There is no request log '{prefix}-*.tfrecord'. Start the server with "
            "`pergola serve --log-requests 1`, or pass the filename_prefix of its logging configuration, "
            "whose sampling_rate must be above 0."
        )
    return found


def prune(prefix: str, max_bytes: int, max_age_s: float = 0.0) -> int:
    """Delete the oldest files of a log until it has at most `max_bytes`; returns how many were deleted.

    The newest file is kept: it may be in use.  max_age_s: files that were last written to longer ago are
    deleted, too, the newest included: a server closes a file after an hour.  0 keeps them.
    """
    start = Path(prefix)
    found = sorted(start.parent.glob(f"{_literal(start.name)}-*.tfrecord"))
    left, gone, oldest_s = sum(path.stat().st_size for path in found), 0, time.time() - max_age_s
    for path in found:
        expired = max_age_s > 0 and path.stat().st_mtime < oldest_s
        if not expired and (left <= max_bytes or path == found[-1]):
            continue
        left, gone = left - path.stat().st_size, gone + 1
        path.unlink(missing_ok=True)
    return gone


@dataclass(frozen=True)
class Span:
    """The number of logged images, and the time of the first and the last."""

    count: int
    first_s: int  # seconds since 1970; 0 if there is none
    last_s: int


def span_of(
    files: Iterable[Path], *, model: str | None = None, version: int | None = None, since_s: int = 0
) -> Span:
    """The span of a log. Arguments as for `read_log`."""
    count, first, last = 0, 0, 0
    for one in read_log(files, model=model, version=version, since_s=since_s):
        count, last = count + 1, max(last, one.at_s)
        first = min(first or one.at_s, one.at_s)
    return Span(count, first, last)


def read_log(
    files: Iterable[Path], *, model: str | None = None, version: int | None = None, since_s: int = 0
) -> Iterator[Logged]:
    """The logged images in the order of the files, one request in memory at a time.

    model, version: only of these, if given.  since_s: not before this time.
    Raises InputError for a file that is not a TFRecord file or is damaged before its end.
    """
    for path in files:
        try:
            with open(path, "rb") as file:
                for record in prediction_log.records(file):
                    yield from _images(record, model, version, since_s)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a request log: {error}.") from None


def sample_log(
    files: list[Path],
    embed: Embed | None = None,
    *,
    model: str | None = None,
    version: int | None = None,
    since_s: int = 0,
    count: int | None = None,
    max_requests: int = 10_000,
    max_embedded: int = 10_000,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = silent,
) -> Sample:
    """The last `max_requests` logged images as a sample, one batch of images in memory at a time.

    count: the number of logged images, if known; otherwise the log is read twice.
    max_embedded: with more images, a seeded sample of this size gets embeddings.
    Raises InputError if there is no image.
    """
    count = span_of(files, model=model, version=version, since_s=since_s).count if count is None else count
    if not count:
        raise InputError(
            f"The request log has no answered images of version {version} since {since_s}. "
            "Wait for requests, or choose another version."
        )
    logged = read_log(files, model=model, version=version, since_s=since_s)
    left = islice(logged, max(0, count - max_requests), count)
    num_left = min(count, max_requests)
    drawn = np.zeros(num_left, np.bool_)
    drawn[np.random.default_rng(seed).permutation(num_left)[:max_embedded]] = True
    parts: list[Sample] = []
    with progress(total=num_left, desc="requests", unit="img") as bar:
        while batch := list(islice(left, batch_size)):
            start = sum(map(len, parts))
            parts.append(_described(batch, embed, np.flatnonzero(drawn[start : start + len(batch)])))
            bar.update(len(batch))
    return concatenated(parts)


def _described(batch: list[Logged], embed: Embed | None, drawn: npt.NDArray[np.integer]) -> Sample:
    sample = describe([one.image for one in batch], np.stack([one.probabilities for one in batch]))
    if embed is None or not len(drawn):
        return sample
    vectors = embed_all([batch[row].image for row in drawn], embed)
    return dataclasses.replace(sample, embeddings=vectors, embedded=drawn)


def images_at(
    files: list[Path],
    rows: Collection[int],
    *,
    model: str | None = None,
    version: int | None = None,
    since_s: int = 0,
) -> dict[int, Logged]:
    """Logged images by row number, from 0."""
    logged = read_log(files, model=model, version=version, since_s=since_s)
    wanted = set(rows)
    return {row: one for row, one in enumerate(logged) if row in wanted}


def _images(record: bytes, model: str | None, version: int | None, since_s: int) -> Iterator[Logged]:
    entry = prediction_log.message()()
    try:
        entry.ParseFromString(record)
    except Exception as error:  # protobuf's DecodeError is not the same class in all its implementations
        raise ValueError(f"a record is not a PredictionLog ({error})") from None
    spec, answer = entry.log_metadata.model_spec, entry.predict_log
    number = spec.version.value
    if (model not in (None, spec.name)) or (version not in (None, number)):
        return
    if entry.log_metadata.timestamp_secs < since_s or not entry.HasField("predict_log"):
        return
    inputs, outputs = answer.request.inputs, answer.response.outputs
    if contract.IMAGE not in inputs or contract.PROBABILITIES not in outputs:
        return
    if inputs[contract.IMAGE].dtype != tensors.DT_STRING:
        return
    images = tensors.to_array(inputs[contract.IMAGE]).ravel()
    probabilities = np.asarray(tensors.to_array(outputs[contract.PROBABILITIES]), np.float32)
    if probabilities.ndim != 2 or len(images) != len(probabilities):
        return
    for image, row in zip(images, probabilities, strict=True):
        yield Logged(number, entry.log_metadata.timestamp_secs, bytes(image), row)


def _literal(name: str) -> str:
    """A name with glob's special characters escaped."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
