"""Evaluate a model on the test split.

It is evaluated as it will be served: encoded images go into the exported model, probabilities come out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pergola.components import records
from pergola.components.artifacts.data import TEST, TRAIN, Shards
from pergola.components.artifacts.data import Split as SplitRecord
from pergola.components.artifacts.evaluation import (
    ClassScore,
    Evaluation,
    Paired,
)
from pergola.components.data.shard_reader import read_images
from pergola.components.evaluation import baselines, robustness
from pergola.components.evaluation.calibration import Calibration, calibration
from pergola.components.evaluation.cost_report import cost_report
from pergola.components.evaluation.export_notes import ExportNotes
from pergola.components.evaluation.golden_requests import Reply, golden_requests
from pergola.components.evaluation.robustness import CHANGES
from pergola.components.evaluation.saliency import Explain, saliency
from pergola.components.evaluation.scoring import Predict, Scorer, Scores
from pergola.components.evaluation.slices import SliceSettings, columns_of, slice_scores
from pergola.components.progress import Progress, silent
from pergola.components.records import setting
from pergola.components.stats import metrics
from pergola.components.stats.compare import compare
from pergola.components.stats.costs import Costs, best_constant


@dataclass(frozen=True)
class EvaluateSettings:
    """How a model is evaluated."""

    batch_size: int = setting(64, "images per call of the model", low=1, high=4096)
    train_sample: int = setting(2000, "training images scored for the train accuracy (0: all)", low=0)
    golden: int = setting(8, "test images kept as golden requests", low=1, high=100)
    golden_bytes: int = setting(262_144, "preferred largest size of a golden request, bytes", low=1024)
    top_k: int = setting(3, "k of the top-k accuracy", low=2, high=100)
    baseline_sample: int = setting(
        1000,
        "images that baselines use, of the training and the test split (0: majority only)",
        low=0,
    )
    robustness_sample: int = setting(
        150, "test images that are blurred, compressed, darkened, brightened and rotated (0: none)", low=0
    )
    slices: bool = setting(
        True, "results by size, brightness, format, source and additional columns of a list"
    )
    slice_min_images: int = setting(30, "smaller slices are not tested", low=2)
    explain: int = setting(
        12, "errors of the highest confidence that get a saliency map (0: none)", low=0, high=100
    )
    seed: int = setting(0, "seed of the sample and of the bootstrap", low=0)


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
    notes: ExportNotes | None = None,
    manifest_folder: Path | None = None,
    explain: Explain | None = None,
    reply: Reply | None = None,
) -> Evaluation:
    """Evaluate a model on the test split and write the artifact (see components/artifacts/).

    predict: encoded images (at most `batch_size`) -> probabilities, float32 (N, C), rows sum to 1.
    model_labels: the classes of the model's outputs if they are not those of the shards: an older model may
        lack classes, whose images then count as errors, or have classes that no longer exist.
    with_train: score training images too; False for a champion, which had another training split.
    notes: the model's temperature and costs.  manifest_folder: for results by slice.
    explain: encoded images -> saliency maps, for errors.  reply: encoded images -> all outputs, for golden
        requests.
    Raises StepError if the model's output has a wrong shape or is not a probability distribution.
    """
    shards = Shards.load(shards_folder)
    labels = _union(shards.labels, model_labels)
    columns = [labels.index(name) for name in (model_labels or labels)]
    chosen = _Chosen.of(split_folder, settings) if with_train else _Chosen()
    total = _count(shards, TEST) + len(chosen.train) + len(CHANGES) * len(chosen.changed)
    with progress(total=total, desc="evaluate", unit="img") as bar:
        scorer = Scorer(predict, columns, len(labels), settings.batch_size, bar)
        test = scorer.score(read_images(shards_folder, TEST))
        train = scorer.score(read_images(shards_folder, TRAIN, chosen.train)) if chosen.train else None
        changed = _robustness(scorer, test, shards_folder, chosen.changed)
    notes = notes or ExportNotes()
    calibrated = calibration(
        test.probabilities, test.labels, temperature=notes.temperature, seed=settings.seed
    )
    evaluation = dataclasses.replace(
        summarise(test, train, labels, settings, calibrated),
        baselines=_baselines(test, shards_folder, chosen),
        robustness=changed,
    )
    out.mkdir(parents=True, exist_ok=True)
    calibrated.save(out)
    _save_predictions(test, labels, split_folder, out)
    golden_requests(
        test, labels, shards_folder, settings.golden, settings.golden_bytes, costs=notes.costs, reply=reply
    ).save(out)
    if notes.costs:
        _save_costs(test, notes.costs, shards, settings.seed, out)
    if settings.slices and manifest_folder:
        cut = SliceSettings(min_images=settings.slice_min_images)
        slice_scores(test.right, columns_of(manifest_folder, test.ids), cut).save(out)
    if settings.explain and explain:
        _save_saliency(explain, test, shards_folder, settings, out)
    evaluation.save(out)
    return evaluation


def summarise(
    test: Scores,
    train: Scores | None,
    labels: tuple[str, ...],
    settings: EvaluateSettings,
    calibrated: Calibration,
) -> Evaluation:
    """The metrics of an evaluation, with their intervals."""
    confusion = metrics.confusion_matrix(test.predicted, test.labels, len(labels))
    accuracy = metrics.accuracy(test.predicted, test.labels)
    top = metrics.top_k_accuracy(test.probabilities, test.labels, settings.top_k)
    train_accuracy = metrics.accuracy(train.predicted, train.labels) if train else None
    num_train = len(train.ids) if train else 0
    intervals = {
        "accuracy": _interval(accuracy, len(test.ids)),
        "macro_f1": metrics.bootstrap_macro_f1(test.predicted, test.labels, len(labels), seed=settings.seed),
        f"top_{settings.top_k}": _interval(top, len(test.ids)),
        "calibration_error": calibrated.interval,
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
        calibration_error=calibrated.error,
    )


def _union(labels: tuple[str, ...], others: Sequence[str] | None) -> tuple[str, ...]:
    return labels + tuple(name for name in others or () if name not in labels)


def _count(shards: Shards, split: str) -> int:
    return shards.splits[split].num_images if split in shards.splits else 0


@dataclass(frozen=True)
class _Chosen:
    """Seeded samples of image ids that are used besides the whole test split."""

    train: frozenset[str] = frozenset()  # scored for the train accuracy
    known: frozenset[str] = frozenset()  # training images of the baselines
    asked: frozenset[str] = frozenset()  # test images of the baselines
    changed: frozenset[str] = frozenset()  # test images of the robustness tests

    @classmethod
    def of(cls, split_folder: Path, settings: EvaluateSettings) -> _Chosen:
        table = SplitRecord.table(split_folder, ["id", "split"])
        train, test = (sorted(table.loc[table["split"] == split, "id"]) for split in (TRAIN, TEST))
        most = settings.baseline_sample
        return cls(
            train=_sample(train, settings.train_sample or len(train), settings.seed),
            known=_sample(train, most, settings.seed),
            asked=_sample(test, most, settings.seed),
            changed=_sample(test, settings.robustness_sample, settings.seed),
        )


def _sample(ids: list[str], most: int, seed: int) -> frozenset[str]:
    if len(ids) <= most:
        return frozenset(ids)
    rng = np.random.default_rng(seed)
    return frozenset(ids[i] for i in rng.choice(len(ids), most, replace=False))


def _baselines(test: Scores, shards_folder: Path, chosen: _Chosen) -> tuple[Paired, ...]:
    simplest = baselines.majority(test.right, test.labels)
    if not chosen.known or not chosen.asked:
        return (simplest,)
    known = baselines.extract_features(read_images(shards_folder, TRAIN, chosen.known))
    asked = baselines.extract_features(read_images(shards_folder, TEST, chosen.asked))
    return (simplest, *baselines.learned(test.only(asked.ids).right, known, asked))


def _robustness(scorer: Scorer, test: Scores, shards_folder: Path, ids: frozenset[str]) -> tuple[Paired, ...]:
    """The model on changed images compared with the unchanged images."""
    found = []
    for name in CHANGES if ids else ():
        after = scorer.score(robustness.changed(read_images(shards_folder, TEST, ids), CHANGES[name]))
        pair = compare(after.right, test.only(after.ids).right)
        accuracy = float(after.right.mean())
        found.append(Paired(name, len(ids), accuracy, pair.difference, pair.interval, pair.p_value))
    return tuple(found)


def _per_class(confusion: metrics.Ints, labels: tuple[str, ...]) -> tuple[ClassScore, ...]:
    scores = metrics.class_scores(confusion)
    return tuple(
        ClassScore(
            label=label,
            precision=_tested(scores.precision[i], scores.support[i] and scores.predicted[i]),
            recall=_tested(scores.recall[i], scores.support[i]),
            f1=_tested(scores.f1[i], scores.support[i]),
            support=int(scores.support[i]),
            precision_interval=_class_interval(
                scores.precision[i], int(scores.predicted[i]) if scores.support[i] else 0
            ),
            recall_interval=_class_interval(scores.recall[i], int(scores.support[i])),
        )
        for i, label in enumerate(labels)
    )


def _tested(value: float, images: int) -> float | None:
    return float(value) if images else None


def _interval(share: float, trials: int) -> tuple[float, float]:
    return metrics.wilson_interval(round(share * trials), trials)


def _class_interval(share: float, trials: int) -> tuple[float, float] | None:
    return _interval(float(share), trials) if trials else None


def _save_costs(test: Scores, costs: Costs, shards: Shards, seed: int, out: Path) -> None:
    """Write costs.json and cost_report.json; the constant action is the best one on the training split."""
    known = shards.splits[TRAIN].by_label if TRAIN in shards.splits else {}
    counts = [known.get(label, 0) for label in costs.labels]
    constant = best_constant(np.repeat(np.arange(len(counts)), counts), costs) if any(counts) else None
    found = cost_report(
        test.probabilities[:, : len(counts)], test.labels, costs, constant=constant, seed=seed
    )
    costs.save(out)
    found.save(out)


def _save_saliency(
    explain: Explain, test: Scores, shards_folder: Path, settings: EvaluateSettings, out: Path
) -> None:
    """Write saliency maps of the errors with the highest confidence."""
    sure = test.probabilities.max(axis=1)
    errors = sorted(np.flatnonzero(~test.right), key=lambda row: (-sure[row], test.ids[row]))
    ids = frozenset(test.ids[row] for row in errors[: settings.explain])
    images = {one.id: one.image for one in read_images(shards_folder, TEST, ids)} if ids else {}
    saliency(explain, images, settings.batch_size).save(out)


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
