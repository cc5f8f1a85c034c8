"""Classifies images with any model that follows serving/wire/contract.py: batch, send, collect."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pergola.serving.client.answers import OrderedAnswers
from pergola.serving.client.effects import END, Flow, Next, Work, iterate, take
from pergola.serving.client.errors import ClientError, InvalidInput, NotFound, Unavailable
from pergola.serving.client.protocol import ModelProtocol
from pergola.serving.client.results import Classification, Prediction
from pergola.serving.wire import contract

MAX_REQUEST_BYTES = 16 * 2**20  # so that a batch of huge photographs becomes several requests
MAX_ROUNDS = 5


def classify(
    protocol: ModelProtocol,
    images: Iterable[Any] | AsyncIterable[Any],
    batch_size: int,
    in_flight: int,
    timeout_s: float | None,
) -> Flow[Classification]:
    """The classes of `images`, all from one version. See Client.classify_images."""
    batches = _Batches(protocol, images, batch_size, timeout_s)
    answers = yield from _ask(protocol, batches.next, in_flight, timeout_s)
    if not answers:
        raise InvalidInput("Got no images. Expected at least one.")
    for _ in range(MAX_ROUNDS):
        # Repeat the batches that an older version answered: a new version was loaded in the meantime.
        newest = max(answer.version for answer in answers)
        old = [i for i, answer in enumerate(answers) if answer.version != newest]
        if not old:
            return (yield from _gathered(protocol, answers, timeout_s))
        again = iter([{contract.IMAGE: batches.sent[i]} for i in old])
        renewed = yield from _ask(protocol, partial(take, again), in_flight, timeout_s)
        for i, answer in zip(old, renewed, strict=True):
            answers[i] = answer
    raise Unavailable(
        f"Answers came from versions {sorted({a.version for a in answers})} of {answers[0].model}, "
        "repeatedly: the servers behind this address serve different versions. Pin version= or label=."
    )


class _Batches:
    """Cuts images into requests of at most `batch_size` images and MAX_REQUEST_BYTES."""

    def __init__(
        self,
        protocol: ModelProtocol,
        images: Iterable[Any] | AsyncIterable[Any],
        batch_size: int,
        timeout_s: float | None,
    ) -> None:
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}, expected at least 1.")
        _check_several(images)
        self._protocol, self._batch_size, self._timeout_s = protocol, batch_size, timeout_s
        self._images, self._number = iterate(images), -1
        self._batch: list[bytes] = []
        self._max_pixels: int | None = None
        self.sent: list[list[bytes]] = []

    def next(self) -> Flow[Any]:
        """The inputs of the next request, or END. Raises InvalidInput that names the invalid image."""
        while (image := (yield Next(self._images))) is not END:
            self._number += 1
            data = yield from self._prepared(image)
            size = sum(map(len, self._batch)) + len(data)
            full = len(self._batch) == self._batch_size or size > MAX_REQUEST_BYTES
            if self._batch and full:
                return self._cut([data])
            self._batch.append(data)
        return self._cut([]) if self._batch else END

    def _cut(self, begun: list[bytes]) -> dict[str, list[bytes]]:
        self.sent.append(self._batch)
        self._batch = begun
        return {contract.IMAGE: self.sent[-1]}

    def _prepared(self, image: Any) -> Flow[bytes]:
        """The image as an upright encoded file.

        The model's limit is asked for when an image is larger than those that any model takes.
        """
        from pergola.serving.wire.images import PIXELS_OF_ANY_MODEL, TooManyPixels, prepare

        try:
            try:
                return (yield Work(partial(prepare, image, max_pixels=PIXELS_OF_ANY_MODEL)))
            except TooManyPixels:
                if self._max_pixels is None:
                    self._max_pixels = yield from _max_pixels(self._protocol, self._timeout_s)
                return (yield Work(partial(prepare, image, max_pixels=self._max_pixels)))
        except ClientError:  # the question for the limit had no answer; some are OSErrors, too
            raise
        except (ValueError, OSError) as error:
            raise InvalidInput(f"Image {self._number}: {error}") from error


def _check_several(images: Any) -> None:
    if isinstance(images, str | bytes | Path):
        raise InvalidInput("Got one image, expected a list of images: classify_images([image]).")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise InvalidInput(
            f"Got an array of shape {images.shape}, expected a list of images or an array (N, H, W, C)."
        )


def _ask(
    protocol: ModelProtocol, source: Callable[[], Flow[Any]], in_flight: int, timeout_s: float | None
) -> Flow[list[Prediction]]:
    # All outputs: only some models have a decision, and a filter that names one fails on the others.
    answers = OrderedAnswers(protocol, source, in_flight=in_flight, timeout_s=timeout_s)
    try:
        return (yield from answers.rest())
    finally:
        answers.close()


def _gathered(
    protocol: ModelProtocol, answers: list[Prediction], timeout_s: float | None
) -> Flow[Classification]:
    first = answers[0]
    probabilities = np.concatenate([answer[contract.PROBABILITIES] for answer in answers])
    labels = [label for answer in answers for label in answer[contract.LABEL].ravel().tolist()]
    probability = np.concatenate([answer[contract.PROBABILITY].ravel() for answer in answers])
    classes = yield from _classes(protocol, first.model, first.version, probabilities.shape[1], timeout_s)
    return Classification(
        labels=tuple(_text(label) for label in labels),
        probability=probability,
        probabilities=probabilities,
        classes=classes,
        model=first.model,
        version=first.version,
        decisions=_decisions(answers),
    )


def _decisions(answers: list[Prediction]) -> tuple[str, ...] | None:
    if any(contract.DECISION not in answer.outputs for answer in answers):
        return None
    return tuple(_text(one) for answer in answers for one in answer[contract.DECISION].ravel().tolist())


def _classes(
    protocol: ModelProtocol, model: str, version: int, count: int, timeout_s: float | None
) -> Flow[tuple[str, ...]]:
    """The names of the classes, fetched once per version; empty for a model that does not provide them."""
    known = protocol.class_names
    if (model, version) not in known:
        index = {contract.INDEX: np.arange(count, dtype=np.int64)}
        pinned = protocol.at(version=version)
        try:
            answer = yield from pinned.predict(index, contract.LABELS, [contract.LABEL], timeout_s)
            names = answer[contract.LABEL]
        except InvalidInput:  # the model has no such signature
            names = np.empty(0, dtype=object)
        except (NotFound, ClientError):  # unloaded meanwhile, or not on every server: try again next time
            return ()
        known[model, version] = tuple(_text(name) for name in names.ravel().tolist())
    return known[model, version]


def _max_pixels(protocol: ModelProtocol, timeout_s: float | None) -> Flow[int]:
    """Pixels of the largest image that the model takes; TensorFlow's limit where it does not say."""
    from pergola.serving.wire.images import MAX_PIXELS

    index = {contract.INDEX: np.zeros(1, np.int64)}
    try:
        answer = yield from protocol.predict(index, contract.LABELS, (), timeout_s)
    except InvalidInput:  # the model has no such signature
        return MAX_PIXELS
    return int(answer[contract.MAX_PIXELS][0]) if contract.MAX_PIXELS in answer.outputs else MAX_PIXELS


def _text(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
