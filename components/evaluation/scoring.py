"""A model's predictions on images, ordered by id, with the classes of the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pergola.components.data.shard_reader import ShardImage
from pergola.components.errors import InputError, StepError
from pergola.components.progress import Bar

Predict = Callable[[list[bytes]], npt.NDArray[np.float32]]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """The probabilities of a model for the images of one split, ordered by id."""

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]  # (N,), true
    probabilities: Floats  # (N, C)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """The most likely class of each image, (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def right(self) -> Bools:
        """Whether each image was classified correctly, (N,)."""
        return self.predicted == self.labels

    def only(self, ids: tuple[str, ...]) -> Scores:
        """The scores of some images, in the order of `ids`."""
        index = {id: i for i, id in enumerate(self.ids)}
        rows = [index[id] for id in ids]
        return Scores(ids, self.labels[rows], self.probabilities[rows])


class Scorer:
    """Runs a model on batches of images and arranges its outputs in the order of the labels."""

    def __init__(
        self, predict: Predict, columns: list[int], num_classes: int, batch_size: int, bar: Bar
    ) -> None:
        self._predict, self._columns, self._num_classes = predict, columns, num_classes
        self._batch_size, self._bar = batch_size, bar

    def score(self, found: Iterator[ShardImage]) -> Scores:
        """The scores of images. Raises InputError if there are none, StepError for invalid outputs."""
        ids, labels, rows = [], [], []
        for batch in _batches(found, self._batch_size):
            rows.append(self._answers([image.image for image in batch]))
            ids += [image.id for image in batch]
            labels += [image.label for image in batch]
            self._bar.update(len(batch))
        if not ids:
            raise InputError("The split to evaluate has no images. Add images or raise its share in [split].")
        order = sorted(range(len(ids)), key=ids.__getitem__)
        truth = np.array(labels, np.int64)[order]
        return Scores(tuple(ids[i] for i in order), truth, np.concatenate(rows)[order])

    def _answers(self, images: list[bytes]) -> Floats:
        answers = np.asarray(self._predict(images), np.float32)
        wanted = (len(images), len(self._columns))
        if answers.shape != wanted:
            raise StepError(
                f"The model's output has shape {answers.shape}, expected shape {wanted} (images, classes)."
            )
        if not np.isfinite(answers).all() or (answers < 0).any() or (answers.sum(axis=1) < 0.5).any():
            raise StepError(
                "The model's outputs are not probabilities (negative, infinite or nan). "
                "Train again with a lower learning rate."
            )
        placed = np.zeros((len(images), self._num_classes), np.float32)
        placed[:, self._columns] = answers
        return placed


def _batches(found: Iterator[ShardImage], size: int) -> Iterator[list[ShardImage]]:
    batch: list[ShardImage] = []
    for image in found:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
