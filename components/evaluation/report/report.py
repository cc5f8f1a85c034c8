"""One page a run: the verdict first, then why. A single HTML file that needs no network.

The figures come from the artifacts, the photographs from the test shards. Whatever people named
(classes, files, settings) is text, never markup.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pergola.components import records
from pergola.components.artifacts.data import TEST, ValidationReport
from pergola.components.artifacts.data import Split as SplitRecord
from pergola.components.artifacts.decision import Decision
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.artifacts.training import Augmentation, Export, Training
from pergola.components.data.page import Images, Shown
from pergola.components.data.shard_reader import read_images
from pergola.components.evaluation.calibration import Calibration
from pergola.components.evaluation.cost_report import CostReport
from pergola.components.evaluation.gate import formatting
from pergola.components.evaluation.report import charts
from pergola.components.evaluation.saliency import Saliency
from pergola.components.evaluation.slices import Slices
from pergola.components.stats.compare import Comparison, compare_evaluations

Sets = list[list[tuple[Shown, str]]]  # of a finding: images and their likes, with data addresses

MAX_ERRORS = 150  # photographs of errors, the surest first
MAX_RIGHT = 120  # photographs of right answers, the least sure of each class
MAX_MATRIX = 40  # classes in a confusion matrix; above it the most frequent confusions are listed
MAX_SETS = 24  # of images of a finding
FEW_SETS = 8  # of them that are seen without a click
MAX_BYTES = 5_000_000


@dataclass(frozen=True)
class Parts:
    """Folders of the artifacts that a report is about. Those that are None are left out."""

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
    """How to make the run again."""

    model: str
    command: str = ""
    settings: str = ""  # as TOML
    code: str = ""  # version of the code
    fingerprints: Mapping[str, str] = field(default_factory=dict)  # what -> SHA-256


@dataclass(frozen=True)
class Answer:
    """One test image and what was answered, with its photograph."""

    path: str
    label: str
    predicted: str
    probability: float
    cell: str  # "<true index>-<predicted index>" in the confusion matrix
    photograph: str  # data address
    heat: str = ""  # data address: where the model looked
    champion: str | None = None  # what the champion answered, where there is one

    @property
    def right(self) -> bool:
        """Whether the class was found."""
        return self.label == self.predicted


def write_report(parts: Parts, about: About, out: Path) -> Path:
    """Write report.html into `out`, at most 5 MB; gives its path."""
    evaluation = Evaluation.load(parts.evaluation)
    shown, findings = list(_answers(parts, evaluation)), _findings(parts)
    page = _render(parts, about, evaluation, shown, findings)
    while len(page.encode()) > MAX_BYTES and (shown or any(findings)):
        shown, findings = _fewer(shown), [sets[: len(sets) * 2 // 3] for sets in findings]
        page = _render(parts, about, evaluation, shown, findings)
    path = out / "report.html"
    records.write_atomic(path, page)
    return path


def _render(
    parts: Parts, about: About, evaluation: Evaluation, shown: Sequence[Answer], findings: Sequence[Sets]
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "span": _span,
        "change": _change,
        "number": _number,
        "figure": formatting.of_rule,
        "verdict": formatting.verdict,
        "place": _place,
    }
    content = _content(parts, about, evaluation, shown)
    content |= {"images": findings, "few": FEW_SETS, "left": _left(content["validation"], findings)}
    return environment.get_template("report.html.j2").render(content)


def _content(parts: Parts, about: About, evaluation: Evaluation, shown: Sequence[Answer]) -> dict[str, Any]:
    """All that the template shows, but for the images of the findings."""
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
        "policy": _policy(parts),
        "preview": _preview(parts),
        "matrix": evaluation.confusion if len(evaluation.labels) <= MAX_MATRIX else None,
        "confusions": _confusions(evaluation),
        "classes": sorted(evaluation.per_class, key=_worst_first),
        "errors": [answer for answer in shown if not answer.right],
        "right": [answer for answer in shown if answer.right],
        "num_errors": round((1 - evaluation.accuracy) * evaluation.num_images),
    }


def _answers(parts: Parts, evaluation: Evaluation) -> Iterator[Answer]:
    """Errors, the surest first; then right answers, the least sure of each class."""
    import pyarrow.parquet as parquet

    columns = ["id", "path", "label", "predicted", "probability"]
    rows = parquet.read_table(parts.evaluation / "predictions.parquet", columns=columns).to_pylist()
    index = {label: i for i, label in enumerate(evaluation.labels)}
    errors = sorted(
        (row for row in rows if row["label"] != row["predicted"]),
        key=lambda row: (-row["probability"], row["id"]),
    )
    chosen = errors[:MAX_ERRORS] + _least_sure(rows, len(index))
    wanted = {row["id"] for row in chosen}
    seen, rival = _heat(parts), _rival(parts)
    photographs, heat = {}, {}
    for image in read_images(parts.shards, TEST, wanted):
        photographs[image.id] = charts.thumbnail(image.image)
        if image.id in seen:
            heat[image.id] = seen[image.id](image.image)
    for row in chosen:
        yield Answer(
            path=row["path"],
            label=row["label"],
            predicted=row["predicted"],
            probability=row["probability"],
            cell=f"{index[row['label']]}-{index[row['predicted']]}",
            photograph=photographs.get(row["id"], ""),
            heat=heat.get(row["id"], ""),
            champion=rival.get(row["id"]),
        )


def _heat(parts: Parts) -> dict[str, Callable[[bytes], str]]:
    """Id of an image -> what draws the places where the model looked on it."""
    if parts.training is None or not (parts.evaluation / Saliency.FILE).is_file():
        return {}
    training, found = Training.load(parts.training), Saliency.load(parts.evaluation)
    size = (training.height, training.width)
    return {
        id: partial(charts.heat, map=map, aspect=training.aspect, size=size) for id, map in found.maps.items()
    }


def _rival(parts: Parts) -> dict[str, str]:
    """Id of an image -> what the champion answered."""
    import pyarrow.parquet as parquet

    if parts.champion is None:
        return {}
    table = parquet.read_table(parts.champion / "predictions.parquet", columns=["id", "predicted"])
    return dict(zip(*(table.column(name).to_pylist() for name in ("id", "predicted")), strict=True))


def _findings(parts: Parts) -> list[Sets]:
    """Of each finding in the data the first sets of images."""
    if parts.validation is None:
        return []
    if not (parts.validation / Images.FILE).is_file():
        return [[] for _ in ValidationReport.load(parts.validation).findings]
    return [
        [[(file, _small(file)) for file in files] for files in sets[:MAX_SETS]]
        for sets in Images.load(parts.validation).sets
    ]


def _left(validation: ValidationReport | None, findings: Sequence[Sets]) -> list[int]:
    """Of each finding how many images are not shown; 0 where none is."""
    counts = [finding.count for finding in validation.findings] if validation else []
    shown = [len({file.path for files in sets for file, _ in files}) for sets in findings]
    return [max(0, count - num) if num else 0 for count, num in zip(counts, shown, strict=True)]


def _small(file: Shown) -> str:
    return charts.thumbnail(base64.b64decode(file.data), 80) if file.data else ""


def _costs(parts: Parts) -> CostReport | None:
    """With the champion's costs where there is one."""
    folders = [folder for folder in (parts.gate, parts.evaluation) if (folder / CostReport.FILE).is_file()]
    return CostReport.load(folders[0]) if folders else None


def _by_column(parts: Parts) -> dict[str, list[Any]]:
    """Column -> its slices."""
    found: dict[str, list[Any]] = {}
    if (parts.evaluation / Slices.FILE).is_file():
        for one in Slices.load(parts.evaluation).slices:
            found.setdefault(one.column, []).append(one)
    return found


def _least_sure(rows: Sequence[Mapping[str, Any]], num_classes: int) -> list[Mapping[str, Any]]:
    each = max(1, min(6, MAX_RIGHT // num_classes))
    queues: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["probability"], row["id"])):
        if row["label"] == row["predicted"]:
            queues.setdefault(row["label"], []).append(row)
    return [row for label in sorted(queues) for row in queues[label][:each]][:MAX_RIGHT]


def _fewer(shown: Sequence[Answer]) -> list[Answer]:
    """Two thirds of the errors and of the right answers."""
    errors = [answer for answer in shown if not answer.right]
    right = [answer for answer in shown if answer.right]
    return errors[: len(errors) * 2 // 3] + right[: len(right) * 2 // 3]


def _comparison(parts: Parts) -> Comparison | None:
    return compare_evaluations(parts.evaluation, parts.champion) if parts.champion else None


def _policy(parts: Parts) -> Mapping[str, float]:
    if parts.augmentation is None:
        return {}
    return {name: value for name, value in Augmentation.load(parts.augmentation).policy.items() if value}


def _preview(parts: Parts) -> str:
    path = parts.augmentation / "preview.png" if parts.augmentation else None
    return charts.contact_sheet(path.read_bytes()) if path and path.is_file() else ""


def _confusions(evaluation: Evaluation, most: int = 20) -> list[dict[str, Any]]:
    """The most frequent confusions: which class was taken for which, how often."""
    found: list[dict[str, Any]] = [
        {"label": evaluation.labels[i], "predicted": evaluation.labels[j], "count": count, "cell": f"{i}-{j}"}
        for i, row in enumerate(evaluation.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(found, key=lambda item: (-item["count"], item["cell"]))[:most]


def _worst_first(score: ClassScore) -> tuple[float, str]:
    return (score.f1, score.label)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}%"


def _change(share: float) -> str:
    return f"{100 * share:+.1f}"


def _span(interval: Sequence[float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}%"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _place(interval: Sequence[float] | None, value: float | None = None) -> str:
    """CSS of an interval of shares, and of the value in it, on a bar from 0 to 1."""
    low, high = interval or (0.0, 1.0)
    dot = "" if value is None else f"--v:{100 * value:.1f}%;"
    return f"{dot}--l:{100 * low:.1f}%;--w:{100 * (high - low):.1f}%"
