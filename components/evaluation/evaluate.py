"""What a model scores on pictures that it has never seen.

It is scored as it will be served: encoded pictures go into the exported model, probabilities come out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components import records
from components.artifacts import TEST, TRAIN, ClassScore, Evaluation, GoldenRequest, GoldenRequests, Shards
from components.artifacts import Split as SplitRecord
from components.errors import InputError, StepError
from components.evaluation import metrics
from components.evaluation.pictures import Picture, pictures
from components.progress import Bar, Progress, silent
from components.records import setting

Predict = Callable[[list[bytes]], npt.NDArray[np.float32]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is scored."""

    batch_size: int = setting(64, "pictures in one call of the model", low=1, high=4096)
    train_sample: int = setting(2000, "training pictures scored for the gap (0: all)", low=0)
    golden: int = setting(8, "test pictures kept as golden requests", low=1, high=100)
    golden_bytes: int = setting(262_144, "largest picture wanted as a golden request, bytes", low=1024)
    top_k: int = setting(3, "k of the top-k accuracy", low=2, high=100)
    seed: int = setting(0, "seed of the sample and of the bootstrap", low=0)


@dataclass(frozen=True)
class Scores:
    """What a model answered to the pictures of one part, ordered by id."""

    ids: tuple[str, ...]
    labels: npt.NDArray[np.int64]  # (N,), true
    probabilities: Floats  # (N, C)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        """Likeliest class of each picture, (N,)."""
        return self.probabilities.argmax(axis=1)


def evaluate(
    predict: Predict,
    shards_folder: Path,
    split_folder: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    progress: Progress = silent,
    model_labels: Sequence[str] | None = None,
    with_train: bool = True,
) -> Evaluation:
    """Score a model on the test part; writes evaluation.json, predictions.parquet and golden.json.

    predict: encoded pictures (at most `batch_size`) -> probabilities, float32 (N, C), rows sum to 1.
    model_labels: what the model's outputs mean, when that is not the order of the shards: an older model
        may know fewer classes, whose pictures it then gets wrong, or classes that are gone.
    with_train: score training pictures too; False for a champion, whose training part was another.
    Raises StepError when the model answers in a wrong shape or with numbers that are no probabilities.
    """
    shards = Shards.load(shards_folder)
    labels = _union(shards.labels, model_labels)
    columns = [labels.index(name) for name in (model_labels or labels)]
    sample = _train_sample(shards, split_folder, settings) if with_train else frozenset()
    total = _count(shards, TEST) + len(sample)
    with progress(total=total, desc="evaluate", unit="img") as bar:
        scorer = _Scorer(predict, columns, len(labels), settings.batch_size, bar)
        test = scorer.score(pictures(shards_folder, TEST))
        train = scorer.score(pictures(shards_folder, TRAIN, sample)) if sample else None
    evaluation = summarise(test, train, labels, settings)
    out.mkdir(parents=True, exist_ok=True)
    _save_predictions(test, labels, split_folder, out)
    _golden(test, labels, shards_folder, settings).save(out)
    evaluation.save(out)
    return evaluation


def summarise(
    test: Scores, train: Scores | None, labels: tuple[str, ...], settings: EvaluateSettings
) -> Evaluation:
    """All figures of an evaluation, with their intervals."""
    confusion = metrics.confusion_matrix(test.predicted, test.labels, len(labels))
    accuracy = metrics.accuracy(test.predicted, test.labels)
    top = metrics.top_k_accuracy(test.probabilities, test.labels, settings.top_k)
    train_accuracy = metrics.accuracy(train.predicted, train.labels) if train else None
    num_train = len(train.ids) if train else 0
    intervals = {
        "accuracy": _interval(accuracy, len(test.ids)),
        "macro_f1": metrics.bootstrap_macro_f1(test.predicted, test.labels, len(labels), seed=settings.seed),
        f"top_{settings.top_k}": _interval(top, len(test.ids)),
    }
    if train_accuracy is not None:
        intervals["train_accuracy"] = _interval(train_accuracy, num_train)
    return Evaluation(
        labels=labels,
        num_images=len(test.ids),
        accuracy=accuracy,
        macro_f1=metrics.macro_f1(confusion),
        top_k={str(settings.top_k): top},
        log_loss=metrics.log_loss(test.probabilities, test.labels),
        train_accuracy=train_accuracy,
        per_class=_per_class(confusion, labels),
        confusion=tuple(tuple(int(cell) for cell in row) for row in confusion),
        num_train=num_train,
        intervals=intervals,
        calibration_error=metrics.expected_calibration_error(test.probabilities, test.labels),
        baselines={"majority": float(confusion.sum(axis=1).max() / len(test.ids))},
    )


class _Scorer:
    """Runs a model over pictures in batches and puts its outputs where the labels say."""

    def __init__(
        self, predict: Predict, columns: list[int], num_classes: int, batch_size: int, bar: Bar
    ) -> None:
        self._predict, self._columns, self._num_classes = predict, columns, num_classes
        self._batch_size, self._bar = batch_size, bar

    def score(self, found: Iterator[Picture]) -> Scores:
        ids, labels, rows = [], [], []
        for batch in _batches(found, self._batch_size):
            rows.append(self._answers([picture.image for picture in batch]))
            ids += [picture.id for picture in batch]
            labels += [picture.label for picture in batch]
            self._bar.update(len(batch))
        if not ids:
            raise InputError(
                "The part to evaluate has no pictures. Add pictures or raise its share in [split]."
            )
        order = sorted(range(len(ids)), key=ids.__getitem__)
        truth = np.array(labels, np.int64)[order]
        return Scores(tuple(ids[i] for i in order), truth, np.concatenate(rows)[order])

    def _answers(self, images: list[bytes]) -> Floats:
        answers = np.asarray(self._predict(images), np.float32)
        wanted = (len(images), len(self._columns))
        if answers.shape != wanted:
            raise StepError(
                f"The model answered with shape {answers.shape}, wanted {wanted} (pictures, classes)."
            )
        if not np.isfinite(answers).all() or (answers < 0).any() or (answers.sum(axis=1) < 0.5).any():
            raise StepError(
                "The model answered with numbers that are no probabilities (negative, infinite or nan). "
                "Train again with a lower learning rate."
            )
        placed = np.zeros((len(images), self._num_classes), np.float32)
        placed[:, self._columns] = answers
        return placed


def _batches(found: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    batch: list[Picture] = []
    for picture in found:
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _union(labels: tuple[str, ...], others: Sequence[str] | None) -> tuple[str, ...]:
    return labels + tuple(name for name in others or () if name not in labels)


def _count(shards: Shards, part: str) -> int:
    return shards.parts[part].num_images if part in shards.parts else 0


def _train_sample(shards: Shards, split_folder: Path, settings: EvaluateSettings) -> frozenset[str]:
    """Ids of the training pictures to score: all, or a seeded sample."""
    table = SplitRecord.table(split_folder, ["id", "part"])
    ids = sorted(table.loc[table["part"] == TRAIN, "id"])
    if settings.train_sample and len(ids) > settings.train_sample:
        rng = np.random.default_rng(settings.seed)
        ids = [ids[i] for i in rng.choice(len(ids), settings.train_sample, replace=False)]
    return frozenset(ids)


def _per_class(confusion: metrics.Ints, labels: tuple[str, ...]) -> tuple[ClassScore, ...]:
    scores = metrics.class_scores(confusion)
    return tuple(
        ClassScore(
            label=label,
            precision=float(scores.precision[i]),
            recall=float(scores.recall[i]),
            f1=float(scores.f1[i]),
            support=int(scores.support[i]),
            precision_interval=_class_interval(scores.precision[i], int(scores.predicted[i])),
            recall_interval=_class_interval(scores.recall[i], int(scores.support[i])),
        )
        for i, label in enumerate(labels)
    )


def _interval(share: float, trials: int) -> tuple[float, float]:
    return metrics.wilson_interval(round(share * trials), trials)


def _class_interval(share: float, trials: int) -> tuple[float, float] | None:
    return _interval(float(share), trials) if trials else None


def _save_predictions(test: Scores, labels: tuple[str, ...], split_folder: Path, out: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = SplitRecord.table(split_folder, ["id", "path"])
    paths = dict(zip(table["id"], table["path"], strict=True))
    names = np.array(labels, dtype=object)
    columns = {
        "id": list(test.ids),
        "path": [paths.get(id, "") for id in test.ids],
        "label": list(names[test.labels]),
        "predicted": list(names[test.predicted]),
        "probability": arrow.array(test.probabilities.max(axis=1), arrow.float32()),
        "probabilities": arrow.array(list(test.probabilities), arrow.list_(arrow.float32())),
    }
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns), sink)
    records.write_atomic(out / "predictions.parquet", sink.getvalue().to_pybytes())


def _golden(
    test: Scores, labels: tuple[str, ...], shards_folder: Path, settings: EvaluateSettings
) -> GoldenRequests:
    """A few pictures with their answers: one of each class in turn, the lowest ids first."""
    index = {id: i for i, id in enumerate(test.ids)}
    sizes = {p.id: len(p.image) for p in pictures(shards_folder, TEST)}
    chosen = _choose(test, sizes, settings)
    images = {p.id: p.image for p in pictures(shards_folder, TEST, frozenset(chosen))}
    requests = tuple(
        GoldenRequest(
            image=base64.b64encode(images[id]).decode("ascii"),
            probabilities=tuple(float(p) for p in test.probabilities[index[id]]),
            label=labels[int(test.predicted[index[id]])],
        )
        for id in chosen
    )
    return GoldenRequests(labels=labels, requests=requests)


def _choose(test: Scores, sizes: dict[str, int], settings: EvaluateSettings) -> list[str]:
    """Ids by turns from each class; within a class small pictures first, then by id."""
    queues: dict[int, list[str]] = {}
    for id, label in sorted(
        zip(test.ids, test.labels, strict=True),
        key=lambda row: (sizes[row[0]] > settings.golden_bytes, row[0]),
    ):
        queues.setdefault(int(label), []).append(id)
    longest = max(len(queue) for queue in queues.values())
    turns = [queues[label][turn : turn + 1] for turn in range(longest) for label in sorted(queues)]
    return [id for turn in turns for id in turn][: settings.golden]
