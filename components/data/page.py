"""The validation report as a self-contained HTML page.

The thumbnails are also stored beside it, in images.json, for the report of a whole run.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from pergola.components import pages, records
from pergola.components.artifacts.data import Finding, Manifest, ValidationReport
from pergola.components.artifacts.record import Record
from pergola.components.data.manifest.image_metadata import pillow_without_limits
from pergola.components.data.manifest.parquet import rows as read_rows
from pergola.components.data.sources.source import Source
from pergola.components.disk import explained
from pergola.components.formatting import count
from pergola.serving.wire import images

FILE = "index.html"

_MAX_SETS = 12  # sets of images shown per finding
_MAX_REVIEWED = 60  # of a finding whose images a person reviews one by one: a contact sheet
_REVIEWED = ("label_error", "outlier")
_SET_SIZE = 3  # an image and similar ones
_SIDE = 128  # pixels of a thumbnail
_WITH_SIMILAR = (
    "exact_duplicate", "near_duplicate", "label_conflict", "near_label_conflict", "split_leak",
    "crop", "crop_label_conflict", "crop_split_leak", "object_split_leak",
)  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """A row of the manifest."""

    path: str
    label: str
    id: str
    reason: str | None


@dataclass(frozen=True)
class Shown:
    """A file of a finding, ready to be shown."""

    path: str
    label: str
    data: str  # base64 of a JPEG, empty when there is no image to show
    reason: str
    note: str = ""


@dataclass(frozen=True)
class Images(Record):
    """The images shown per finding, in the order of the findings: sets of an image and similar ones."""

    FILE: ClassVar[str] = "images.json"

    sets: tuple[tuple[tuple[Shown, ...], ...], ...]


def write_page(report: ValidationReport, manifest_folder: Path, source: Source, out: Path) -> Path:
    """Write index.html into `out`: the verdict, each finding with images, the classes. Gives its path."""
    sets = _sets(report, manifest_folder)
    notes = {
        (number, path): note
        for number, finding in enumerate(report.findings)
        for path, note in zip(finding.paths, finding.notes, strict=False)
    }
    most = max(report.counts.values(), default=0)
    with pillow_without_limits():
        shown = Images(
            tuple(
                tuple(
                    tuple(_shown(source, row, notes.get((number, row.path), "")) for row in rows)
                    for rows in sets[number]
                )
                for number in range(len(report.findings))
            )
        )
    content = {
        "report": report,
        "fingerprint": Manifest.load(manifest_folder).fingerprint,
        "verdict": "The data can be used" if report.ok else "The data cannot be used as it is",
        "summary": _summary(report),
        "findings": [
            {
                "title": finding.check.replace("_", " ").capitalize(),
                "severity": finding.severity,
                "message": finding.message,
                "rest": _not_shown(finding, sets[number]),
                "sets": shown.sets[number],
            }
            for number, finding in enumerate(report.findings)
        ],
        "classes": [(name, num, round(100 * num / max(1, most), 1)) for name, num in report.counts.items()],
    }
    html = pages.render(Path(__file__).with_name("data_page.html.j2"), content)
    with explained(out):
        records.write_atomic(out / FILE, html)
        shown.save(out)
    return out / FILE


def _summary(report: ValidationReport) -> str:
    parts = [
        f"{count(report.num_images, 'file')}, {count(sum(report.counts.values()), 'unique image')} to use in "
        f"{count(len(report.counts), 'class', 'classes')}"
    ]
    if report.quarantined:
        parts.append(f"{count(len(report.quarantined), 'file')} excluded")
    if not report.findings:
        parts.append("no findings")
    return "; ".join(parts) + "."


def _sets(report: ValidationReport, folder: Path) -> dict[int, list[list[_Row]]]:
    """Number of a finding -> the images to show, with similar ones where the finding is about these."""
    wanted = {path for finding in report.findings for path in finding.paths[: _max_sets(finding)]}
    rows = {row.path: row for row in _rows(folder) if row.path in wanted}
    groups = {
        _group(report, rows[path]) for finding in _about_similar(report) for path in finding.paths[:_MAX_SETS]
    }
    similar: dict[str, list[_Row]] = {}
    for row in _rows(folder):
        group = _group(report, row)
        if group in groups and len(similar.setdefault(group, [])) < _MAX_SETS:
            similar[group].append(row)
    return {
        number: list(_chosen(finding, report, rows, similar))
        for number, finding in enumerate(report.findings)
    }


def _max_sets(finding: Finding) -> int:
    """The largest number of sets of images shown for a finding."""
    return _MAX_REVIEWED if finding.check in _REVIEWED else _MAX_SETS


def _not_shown(finding: Finding, sets: list[list[_Row]]) -> int:
    """The number of images of a finding that are not shown; 0 where none is shown."""
    return max(0, finding.count - len({row.path for rows in sets for row in rows})) if sets else 0


def _about_similar(report: ValidationReport) -> Iterable[Finding]:
    return (finding for finding in report.findings if finding.check in _WITH_SIMILAR)


def _chosen(
    finding: Finding, report: ValidationReport, rows: dict[str, _Row], similar: dict[str, list[_Row]]
) -> Iterator[list[_Row]]:
    seen: set[str] = set()
    for path in finding.paths[: _max_sets(finding)]:
        row = rows.get(path)
        if row is None:  # it was left out, and has no row
            continue
        if finding.check not in _WITH_SIMILAR:
            yield [row]
            continue
        group = _group(report, row)
        if group not in seen:
            seen.add(group)
            others = [other for other in similar[group] if other.path != path]
            others.sort(key=lambda other: other.label == row.label)  # other labels first
            yield [row, *others[: _SET_SIZE - 1]]


def _group(report: ValidationReport, row: _Row) -> str:
    return report.groups.get(row.id, row.id)


def _rows(folder: Path) -> Iterator[_Row]:
    for row in read_rows(folder / "manifest.parquet", ["path", "label", "id", "reason"]):
        yield _Row(*row)


def _shown(source: Source, row: _Row, note: str) -> Shown:
    if row.reason is not None:
        return Shown(row.path, row.label, "", row.reason, note)
    try:
        data = source.read(row.path)
        return Shown(row.path, row.label, base64.b64encode(_thumbnail(data)).decode(), "", note)
    except (OSError, ValueError):
        return Shown(row.path, row.label, "", "it can no longer be read", note)


def _thumbnail(data: bytes) -> bytes:
    """A small upright JPEG; tiny images are enlarged without smoothing, to show their pixels."""
    with images.opened(data, max_pixels=1 << 40) as image, images.decoding("it"):
        turn = images.orientation(image, data)
        image.draft(image.mode, (_SIDE, _SIDE))
        image.load()
        small = images.upright(images.flat(image), turn)
    scale = _SIDE / max(small.size)
    filter = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))), filter)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
