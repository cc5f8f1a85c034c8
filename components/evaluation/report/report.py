"""The report of a run: the gate's verdict and the reasons for it, as one HTML file.

Numbers come from the artifacts, images from the test shards. The report is a cached artifact, so it holds
no run id, version or date; `with_run` adds them to the copy in the run's folder.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pergola.components import pages, records
from pergola.components.artifacts.data import TEST, ValidationReport
from pergola.components.artifacts.data import Split as SplitRecord
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.data.page import Images, Shown
from pergola.components.data.shard_reader import read_images
from pergola.components.evaluation import charts, thumbnails
from pergola.components.evaluation.calibration import Calibration
from pergola.components.evaluation.cost_report import CostReport
from pergola.components.evaluation.gate import formatting
from pergola.components.evaluation.saliency import Saliency
from pergola.components.evaluation.slices import Slices
from pergola.components.stats.compare import Comparison, compare_evaluations

Sets = list[list[tuple[Shown, str]]]  # of a finding: images shown together, each with its thumbnail

TEMPLATE = Path(__file__).with_name("report.html.j2")

MAX_ERRORS = 150  # images of errors, the highest confidence first
MAX_RIGHT = 120  # correctly classified images, the lowest confidence of each class
MAX_MATRIX = 40  # classes in a confusion matrix; with more, the most frequent confusions are listed
MAX_SETS = 24  # sets of images per finding
FEW_SETS = 8  # sets shown before "more" is opened
MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class ReportInputs:
    """Folders of the artifacts that go into a report. Sections without their artifact are omitted."""

    evaluation: Path
    gate: Path
    shards: Path
    validation: Path | None = None
    split: Path | None = None
    augmentation: Path | None = None
    training: Path | None = None
    export: Path | None = None
    smoke_test: Path | None = None
    champion: Path | None = None  # the champion's evaluation on the same images


@dataclass(frozen=True)
class About:
    """How to reproduce the run."""

    model: str
    command: str = ""
    settings: str = ""  # as TOML
    code: str = ""  # version of the code
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # what -> SHA-256


@dataclass(frozen=True)
class GalleryImage:
    """One test image with its prediction."""

    path: str
    label: str
    predicted: str
    probability: float
    cell: str  # "<true index>-<predicted index>" in the confusion matrix
    thumbnail: str  # data URL
    heat: str = ""  # data URL of the heat map over the image
    champion: str | None = None  # the champion's prediction, if there is a champion

    @property
    def correct(self) -> bool:
        """Whether the prediction is the true class."""
        return self.label == self.predicted


def write_report(parts: ReportInputs, about: About, out: Path) -> Path:
    """Write report.html, at most 5 MB, into `out` and return its path."""
    evaluation = Evaluation.load(parts.evaluation)
    shown, findings = list(_gallery(parts, evaluation)), _findings(parts)
    page = _render(parts, about, evaluation, shown, findings)
    while len(page.encode()) > MAX_BYTES and (shown or any(findings)):
        shown, findings = _fewer(shown), [sets[: len(sets) * 2 // 3] for sets in findings]
        page = _render(parts, about, evaluation, shown, findings)
    path = out / "report.html"
    records.write_atomic(path, page)
    return path


def with_run(page: str, *, model: str, run: str, date: str, version: int | None = None) -> str:
    """A report's HTML with model, version, run and date in its title and below its heading.

    version: None for a model that was not released.  date: for people, such as "2026-11-30 14:05 UTC".
    """
    name = f"{model} version {version}" if version else model
    name, details = html.escape(name), html.escape(f"Run {run}, {date}")
    page = re.sub(
        r"<title>[^<]*: (\w+)</title>", lambda m: f"<title>{name}: {m[1]}. {details}</title>", page, count=1
    )
    if version:
        details = f"Version {version}. {details}"
    return page.replace('<p class="soft" id="run"></p>', f'<p class="soft" id="run">{details}</p>', 1)


def _render(
    parts: ReportInputs,
    about: About,
    evaluation: Evaluation,
    shown: Sequence[GalleryImage],
    findings: Sequence[Sets],
) -> str:
    content = _content(parts, about, evaluation, shown)
    content |= {
        "images": findings,
        "few": FEW_SETS,
        "bar": _bar_style,
        "figure": formatting.of_rule,
        "verdict": formatting.verdict,
        "left": _left(content["validation"], findings),
    }
    return pages.render(TEMPLATE, content)


def _content(
    parts: ReportInputs, about: About, evaluation: Evaluation, shown: Sequence[GalleryImage]
) -> dict[str, Any]:
    """Everything the template shows except the images of the findings."""
    decision = Decision.load(parts.gate)
    training = Training.load(parts.training) if parts.training else None
    calibration, costs = Calibration.load(parts.evaluation), _costs(parts)
    before = calibration.before
    return {
        "about": about,
        "decision": decision,
        "evaluation": evaluation,
        "validation": ValidationReport.load(parts.validation) if parts.validation else None,
        "split": SplitRecord.load(parts.split) if parts.split else None,
        "training": training,
        "export": Export.load(parts.export) if parts.export else None,
        "smoke_test": SmokeTest.load(parts.smoke_test) if parts.smoke_test else None,
        "comparison": _comparison(parts),
        "curves": charts.curves(training.history, training.best_epoch) if training else "",
        "calibration": calibration,
        "reliability": charts.reliability(calibration.bins, before.bins if before else ()),
        "costs": costs,
        "cost_curve": charts.cost_curve(costs) if costs else "",
        "slices": _by_column(parts),
        "augmentation": _augmentation(parts),
        "preview": _preview(parts),
        "matrix": evaluation.confusion if len(evaluation.labels) <= MAX_MATRIX else None,
        "confusions": _confusions(evaluation),
        "classes": sorted(evaluation.per_class, key=_worst_first),
        "errors": [image for image in shown if not image.correct],
        "correct": [image for image in shown if image.correct],
        "num_errors": round((1 - evaluation.accuracy) * evaluation.num_images),
    }


def _gallery(parts: ReportInputs, evaluation: Evaluation) -> Iterator[GalleryImage]:
    """Errors, the highest confidence first; then correct predictions, the lowest of each class."""
    import pyarrow.parquet as parquet

    columns = ["id", "path", "label", "predicted", "probability"]
    rows = parquet.read_table(parts.evaluation / "predictions.parquet", columns=columns).to_pylist()
    index = {label: i for i, label in enumerate(evaluation.labels)}
    errors = sorted(
        (row for row in rows if row["label"] != row["predicted"]),
        key=lambda row: (-row["probability"], row["id"]),
    )
    chosen = errors[:MAX_ERRORS] + _least_confident(rows, len(index))
    wanted = {row["id"] for row in chosen}
    maps, champion = _heat_maps(parts), _champion_predictions(parts)
    shown, heat = {}, {}
    for image in read_images(parts.shards, TEST, wanted):
        shown[image.id] = thumbnails.thumbnail(image.image)
        if image.id in maps:
            heat[image.id] = maps[image.id](image.image)
    for row in chosen:
        yield GalleryImage(
            path=row["path"],
            label=row["label"],
            predicted=row["predicted"],
            probability=row["probability"],
            cell=f"{index[row['label']]}-{index[row['predicted']]}",
            thumbnail=shown.get(row["id"], ""),
            heat=heat.get(row["id"], ""),
            champion=champion.get(row["id"]),
        )


def _heat_maps(parts: ReportInputs) -> dict[str, Callable[[bytes], str]]:
    """Image id -> a function that draws the heat map over the image."""
    if parts.training is None or not (parts.evaluation / Saliency.FILE).is_file():
        return {}
    training, found = Training.load(parts.training), Saliency.load(parts.evaluation)
    size = (training.height, training.width)
    return {
        id: partial(thumbnails.heat, map=map, aspect=training.aspect, size=size)
        for id, map in found.maps.items()
    }


def _champion_predictions(parts: ReportInputs) -> dict[str, str]:
    """Image id -> the champion's prediction."""
    import pyarrow.parquet as parquet

    if parts.champion is None:
        return {}
    table = parquet.read_table(parts.champion / "predictions.parquet", columns=["id", "predicted"])
    return dict(zip(*(table.column(name).to_pylist() for name in ("id", "predicted")), strict=True))


def _findings(parts: ReportInputs) -> list[Sets]:
    """The first sets of images of each finding in the data."""
    if parts.validation is None:
        return []
    if not (parts.validation / Images.FILE).is_file():
        return [[] for _ in ValidationReport.load(parts.validation).findings]
    return [
        [[(file, _small(file)) for file in files] for files in sets[:MAX_SETS]]
        for sets in Images.load(parts.validation).sets
    ]


def _left(validation: ValidationReport | None, findings: Sequence[Sets]) -> list[int]:
    """The number of images of each finding that are not shown; 0 for a finding without images."""
    counts = [finding.count for finding in validation.findings] if validation else []
    shown = [len({file.path for files in sets for file, _ in files}) for sets in findings]
    return [max(0, count - num) if num else 0 for count, num in zip(counts, shown, strict=True)]


def _small(file: Shown) -> str:
    return thumbnails.thumbnail(base64.b64decode(file.data), 80) if file.data else ""


def _costs(parts: ReportInputs) -> CostReport | None:
    """The cost report, with the champion's costs if there is a champion."""
    folders = [folder for folder in (parts.gate, parts.evaluation) if (folder / CostReport.FILE).is_file()]
    return CostReport.load(folders[0]) if folders else None


def _by_column(parts: ReportInputs) -> dict[str, list[Any]]:
    """Column -> its slices."""
    found: dict[str, list[Any]] = {}
    if (parts.evaluation / Slices.FILE).is_file():
        for one in Slices.load(parts.evaluation).slices:
            found.setdefault(one.column, []).append(one)
    return found


def _least_confident(rows: Sequence[Mapping[str, Any]], num_classes: int) -> list[Mapping[str, Any]]:
    each = max(1, min(6, MAX_RIGHT // num_classes))
    queues: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["probability"], row["id"])):
        if row["label"] == row["predicted"]:
            queues.setdefault(row["label"], []).append(row)
    return [row for label in sorted(queues) for row in queues[label][:each]][:MAX_RIGHT]


def _fewer(shown: Sequence[GalleryImage]) -> list[GalleryImage]:
    """Two thirds of the errors and of the correct predictions."""
    errors = [image for image in shown if not image.correct]
    correct = [image for image in shown if image.correct]
    return errors[: len(errors) * 2 // 3] + correct[: len(correct) * 2 // 3]


def _comparison(parts: ReportInputs) -> Comparison | None:
    return compare_evaluations(parts.evaluation, parts.champion) if parts.champion else None


def _augmentation(parts: ReportInputs) -> Mapping[str, float]:
    if parts.augmentation is None:
        return {}
    return {name: value for name, value in Augmentation.load(parts.augmentation).policy.items() if value}


def _preview(parts: ReportInputs) -> str:
    path = parts.augmentation / "preview.png" if parts.augmentation else None
    return thumbnails.contact_sheet(path.read_bytes()) if path and path.is_file() else ""


def _confusions(evaluation: Evaluation, most: int = 20) -> list[dict[str, Any]]:
    """The most frequent pairs of true and predicted class, with their counts."""
    found: list[dict[str, Any]] = [
        {"label": evaluation.labels[i], "predicted": evaluation.labels[j], "count": count, "cell": f"{i}-{j}"}
        for i, row in enumerate(evaluation.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda item: (-item["count"], item["cell"]))[:most]


def _worst_first(score: ClassScore) -> tuple[bool, float, str]:
    """Those without a test image first: nothing is known of them."""
    return (score.support > 0, score.f1 or 0.0, score.label)


def _bar_style(interval: Sequence[float] | None, value: float | None = None) -> str:
    """CSS that draws an interval of shares, and a value in it, on a bar from 0 to 1."""
    low, high = interval or (0.0, 1.0)
    mark = "" if value is None else f"--v:{100 * value:.1f}%;"
    return f"{mark}--l:{100 * low:.1f}%;--w:{100 * (high - low):.1f}%"
