"""The result of a drift check as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pergola.components import pages, records
from pergola.components.evaluation import charts, thumbnails
from pergola.components.evaluation.drift.drift import CONFIDENCE, EMBEDDING, PRIOR, DriftReport
from pergola.components.evaluation.drift.reference import Sample

Floats = npt.NDArray[np.float64]

FILE = "index.html"
MAX_CLASSES = 60  # in the table of classes; those whose share changed most


@dataclass(frozen=True)
class Unusual:
    """A request that is unlike the test split."""

    image: bytes
    label: str  # the predicted class
    probability: float
    at: str  # when, for people


@dataclass(frozen=True)
class Title:
    """The heading of the page."""

    model: str
    version: int
    span: str  # time of the first and the last request


def write_page(
    title: Title,
    report: DriftReport,
    reference: Sample,
    live: Sample,
    unusual: Sequence[Unusual],
    out: Path,
) -> Path:
    """Write index.html into `out`: verdict, tests, distributions, classes, unusual requests."""
    template = Path(__file__).with_name("drift.html.j2")
    html = pages.render(template, _content(title, report, reference, live, unusual))
    records.write_atomic(out / FILE, html)
    return out / FILE


def _content(
    title: Title, report: DriftReport, reference: Sample, live: Sample, unusual: Sequence[Unusual]
) -> dict[str, Any]:
    moved = sorted(report.classes, key=lambda one: -abs(one.live - one.reference))
    images = [(one, thumbnails.thumbnail(one.image)) for one in unusual]
    return {
        "title": title,
        "report": report,
        "tests": sorted(report.tests, key=lambda test: (not test.drifted, test.adjusted_p)),
        "classes": moved[:MAX_CLASSES],
        "num_more_classes": max(0, len(moved) - MAX_CLASSES),
        "estimated": any(one.estimated is not None for one in moved),
        "charts": list(_charts(report, reference, live)),
        "unusual": [(one, image) for one, image in images if image],
    }


def _charts(report: DriftReport, reference: Sample, live: Sample) -> Iterator[tuple[str, bool, str]]:
    """Name, whether it drifted, and both distributions as SVG."""
    for test in report.tests:
        if test.name in (PRIOR, EMBEDDING):
            continue
        before, after = _known(reference, test.name), _known(live, test.name)
        if len(before) and len(after):
            yield test.name, test.drifted, charts.distributions(before, after)


def _known(sample: Sample, name: str) -> Floats:
    """The known values of a column, (N,)."""
    values = np.asarray(sample.confidence if name == CONFIDENCE else sample.statistics[name], np.float64)
    return values[~np.isnan(values)]
