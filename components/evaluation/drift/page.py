"""What a look at drift found, as one HTML page that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pergola.components import records
from pergola.components.evaluation.drift.drift import CONFIDENCE, EMBEDDING, PRIOR, DriftReport
from pergola.components.evaluation.drift.reference import Sample
from pergola.components.evaluation.report import charts

Floats = npt.NDArray[np.float64]

FILE = "index.html"
MAX_CLASSES = 60  # in the table of classes; those that moved most


@dataclass(frozen=True)
class Unusual:
    """A request that is unlike the reference."""

    image: bytes
    label: str  # that was answered
    probability: float
    at: str  # when, for people


@dataclass(frozen=True)
class Title:
    """What the page is about, for people."""

    model: str
    version: int
    span: str  # from when to when


def write_page(
    title: Title,
    report: DriftReport,
    reference: Sample,
    live: Sample,
    unusual: Sequence[Unusual],
    out: Path,
) -> Path:
    """Write index.html into `out`: the verdict, the tests, distributions, classes, unusual requests."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": lambda share: "" if share is None else f"{100 * share:.1f}%"}
    html = environment.get_template("drift.html.j2").render(_content(title, report, reference, live, unusual))
    records.write_atomic(out / FILE, html)
    return out / FILE


def _content(
    title: Title, report: DriftReport, reference: Sample, live: Sample, unusual: Sequence[Unusual]
) -> dict[str, Any]:
    moved = sorted(report.classes, key=lambda one: -abs(one.live - one.reference))
    images = [(one, charts.thumbnail(one.image)) for one in unusual]
    return {
        "title": title,
        "report": report,
        "tests": sorted(report.tests, key=lambda test: (not test.drifted, test.adjusted_p)),
        "classes": moved[:MAX_CLASSES],
        "num_more_classes": max(0, len(moved) - MAX_CLASSES),
        "estimated": any(one.estimated is not None for one in moved),
        "charts": list(_charts(report, reference, live)),
        "unusual": [(one, picture) for one, picture in images if picture],
    }


def _charts(report: DriftReport, reference: Sample, live: Sample) -> Iterator[tuple[str, bool, str]]:
    """Name, whether it drifted, and the two distributions as SVG."""
    for test in report.tests:
        if test.name in (PRIOR, EMBEDDING):
            continue
        before, after = _known(reference, test.name), _known(live, test.name)
        if len(before) and len(after):
            yield test.name, test.drifted, charts.distributions(before, after)


def _known(sample: Sample, name: str) -> Floats:
    """The values of a column that are known, (N,)."""
    values = np.asarray(sample.confidence if name == CONFIDENCE else sample.statistics[name], np.float64)
    return values[~np.isnan(values)]
