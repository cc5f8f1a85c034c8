"""Classifies images with any model that follows serving/wire/contract.py: batch, send, collect."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pergola.serving.client.errors import ClientError, InvalidInput, NotFound, Unavailable
from pergola.serving.client.results import Classification, Prediction
from pergola.serving.wire import contract

if TYPE_CHECKING:
    from pergola.serving.client.client import Client

MAX_REQUEST_BYTES = 16 * 2**20  # so that a batch of huge photographs becomes several requests
MAX_ROUNDS = 5


def classify(
    client: Client, images: Iterable[Any], batch_size: int, in_flight: int, timeout_s: float | None
) -> Classification:
    """The classes of `images`, all from one version. See Client.classify_images."""
    if batch_size < 1:
        raise InvalidInput(f"batch_size is {batch_size}, expected at least 1.")
    batches: list[list[bytes]] = []

    def requests() -> Iterator[dict[str, Any]]:
        limit = functools.cache(lambda: _max_pixels(client, timeout_s))
        for batch in _batches(_checked(images, limit), batch_size):
            batches.append(batch)
            yield {contract.IMAGE: batch}

    answers = list(_ask(client, requests(), in_flight, timeout_s))
    if not answers:
        raise InvalidInput("Got no images. Expected at least one.")
    answers = _of_one_version(client, answers, batches, in_flight, timeout_s)
    return _gathered(client, answers, timeout_s)


def _ask(
    client: Client, requests: Iterable[dict[str, Any]], in_flight: int, timeout_s: float | None
) -> Iterator[Prediction]:
    # All outputs: only some models have a decision, and a filter that names one fails on the others.
    return client.predict_many(requests, in_flight=in_flight, timeout_s=timeout_s)


def _of_one_version(
    client: Client,
    answers: list[Prediction],
    batches: list[list[bytes]],
    in_flight: int,
    timeout_s: float | None,
) -> list[Prediction]:
    """Repeat the batches that an older version answered: a new version was loaded in the meantime."""
    for _ in range(MAX_ROUNDS):
        newest = max(answer.version for answer in answers)
        old = [i for i, answer in enumerate(answers) if answer.version != newest]
        if not old:
            return answers
        again = _ask(client, ({contract.IMAGE: batches[i]} for i in old), in_flight, timeout_s)
        for i, answer in zip(old, again, strict=True):
            answers[i] = answer
    raise Unavailable(
        f"Answers came from versions {sorted({a.version for a in answers})} of {answers[0].model}, "
        "repeatedly: the servers behind this address serve different versions. Pin version= or label=."
    )


def _gathered(client: Client, answers: list[Prediction], timeout_s: float | None) -> Classification:
    first = answers[0]
    probabilities = np.concatenate([answer[contract.PROBABILITIES] for answer in answers])
    labels = [label for answer in answers for label in answer[contract.LABEL].ravel().tolist()]
    return Classification(
        labels=tuple(_text(label) for label in labels),
        probability=np.concatenate([answer[contract.PROBABILITY].ravel() for answer in answers]),
        probabilities=probabilities,
        classes=_classes(client, first.model, first.version, probabilities.shape[1], timeout_s),
        model=first.model,
        version=first.version,
        decisions=_decisions(answers),
    )


def _decisions(answers: list[Prediction]) -> tuple[str, ...] | None:
    if any(contract.DECISION not in answer.outputs for answer in answers):
        return None
    return tuple(_text(one) for answer in answers for one in answer[contract.DECISION].ravel().tolist())


def _classes(
    client: Client, model: str, version: int, count: int, timeout_s: float | None
) -> tuple[str, ...]:
    """The names of the classes, fetched once per version; empty for a model that does not provide them."""
    known = client._classes
    if (model, version) not in known:
        try:
            names = client.at(version=version).predict(
                {contract.INDEX: np.arange(count, dtype=np.int64)},
                signature=contract.LABELS,
                outputs=[contract.LABEL],
                timeout_s=timeout_s,
            )[contract.LABEL]
        except InvalidInput:  # the model has no such signature
            names = np.empty(0, dtype=object)
        except (NotFound, ClientError):  # unloaded meanwhile, or not on every server: try again next time
            return ()
        known[model, version] = tuple(_text(name) for name in names.ravel().tolist())
    return known[model, version]


def _batches(images: Iterable[bytes], batch_size: int) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for image in images:
        if batch and (len(batch) == batch_size or size + len(image) > MAX_REQUEST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(image)
        size += len(image)
    if batch:
        yield batch


def _checked(images: Iterable[Any], limit: Callable[[], int]) -> Iterator[bytes]:
    """Each image as an upright encoded file. Raises InvalidInput that names the invalid one.

    limit: the model's, which is asked for when an image is larger than those that any model takes.
    """
    from pergola.serving.wire.images import PIXELS_OF_ANY_MODEL, TooManyPixels, prepare

    if isinstance(images, str | bytes | Path):
        raise InvalidInput("Got one image, expected a list of images: classify_images([image]).")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise InvalidInput(
            f"Got an array of shape {images.shape}, expected a list of images or an array (N, H, W, C)."
        )
    for number, image in enumerate(images):
        try:
            try:
                yield prepare(image, max_pixels=PIXELS_OF_ANY_MODEL)
            except TooManyPixels:
                yield prepare(image, max_pixels=limit())
        except (ValueError, OSError) as error:
            raise InvalidInput(f"Image {number}: {error}") from error


def _max_pixels(client: Client, timeout_s: float | None) -> int:
    """Pixels of the largest image that the model takes; TensorFlow's limit where it does not say."""
    from pergola.serving.wire.images import MAX_PIXELS

    try:
        answer = client.predict(
            {contract.INDEX: np.zeros(1, np.int64)}, signature=contract.LABELS, timeout_s=timeout_s
        )
    except InvalidInput:  # the model has no such signature
        return MAX_PIXELS
    return int(answer[contract.MAX_PIXELS][0]) if contract.MAX_PIXELS in answer.outputs else MAX_PIXELS


def _text(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
