"""The result of the checks as one HTML page that needs nothing from outside.

The thumbnails are kept beside it, in images.json, for the page of a whole run.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from pergola.components import records
from pergola.components.artifacts.data import Finding, ValidationReport
from pergola.components.artifacts.record import Record
from pergola.components.data.manifest.image_metadata import pillow_as_is
from pergola.components.data.sources.source import Source
from pergola.components.disk import explained
from pergola.serving.wire import images

FILE = "index.html"

_SETS = 12  # of images shown for a finding
_SHEET = 60  # of one about single images that a person is to judge: a contact sheet
_TO_JUDGE = ("label_error", "outlier")
_IN_A_SET = 3  # an image and its likes
_SIDE = 128  # pixels of a thumbnail
_WITH_LIKES = (
    "exact_duplicate", "near_duplicate", "label_conflict", "near_label_conflict", "split_leak",
    "crop", "crop_label_conflict", "crop_split_leak", "object_split_leak",
)  # fmt: skip
_BLOCK = 8192


@dataclass(frozen=True)
class _Row:
    path: str
    label: str
    id: str
    reason: str | None


@dataclass(frozen=True)
class Shown:
    """A file of a finding."""

    path: str
    label: str
    data: str  # base64 of a JPEG, empty when there is no image to show
    reason: str
    note: str = ""  # what is said of it


@dataclass(frozen=True)
class Images(Record):
    """What is shown of each finding, in the order of the findings: sets of an image and its likes."""

    FILE: ClassVar[str] = "images.json"

    sets: tuple[tuple[tuple[Shown, ...], ...], ...]


def write_page(report: ValidationReport, manifest_folder: Path, source: Source, out: Path) -> Path:
    """Write index.html into `out`: the verdict, each finding with images, the classes. Gives its path."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    sets = _sets(report, manifest_folder)
    notes = {
        (place, path): note
        for place, finding in enumerate(report.findings)
        for path, note in zip(finding.paths, finding.notes, strict=False)
    }
    most = max(report.counts.values(), default=0)
    with pillow_as_is():
        pictures = Images(
            tuple(
                tuple(
                    tuple(_shown(source, row, notes.get((place, row.path), "")) for row in rows)
                    for rows in sets[place]
                )
                for place in range(len(report.findings))
            )
        )
        html = template.render(
            report=report,
            verdict="The data can be used" if report.ok else "The data cannot be used as it is",
            summary=_summary(report),
            findings=[
                {
                    "title": finding.check.replace("_", " ").capitalize(),
                    "severity": finding.severity,
                    "message": finding.message,
                    "rest": _not_shown(finding, sets[place]),
                    "sets": pictures.sets[place],
                }
                for place, finding in enumerate(report.findings)
            ],
            classes=[
                (name, count, round(100 * count / max(1, most), 1)) for name, count in report.counts.items()
            ],
        )
    with explained(out):
        records.write_atomic(out / FILE, html)
        pictures.save(out)
    return out / FILE


def _summary(report: ValidationReport) -> str:
    left = sum(report.counts.values())
    parts = [f"{report.num_images:,} files, {left:,} distinct images in {len(report.counts)} classes to use"]
    if report.quarantined:
        parts.append(f"{len(report.quarantined):,} files left out")
    if not report.findings:
        parts.append("nothing was found")
    return "; ".join(parts) + "."


def _sets(report: ValidationReport, folder: Path) -> dict[int, list[list[_Row]]]:
    """For each finding, by its place, what to show: an image and, where that is the point, its likes."""
    wanted = {path for finding in report.findings for path in finding.paths[: _most(finding)]}
    rows = {row.path: row for row in _rows(folder) if row.path in wanted}
    groups = {
        _group(report, rows[path]) for finding in _about_likes(report) for path in finding.paths[:_SETS]
    }
    likes: dict[str, list[_Row]] = {}
    for row in _rows(folder):
        group = _group(report, row)
        if group in groups and len(likes.setdefault(group, [])) < _SETS:
            likes[group].append(row)
    return {
        place: list(_chosen(finding, report, rows, likes)) for place, finding in enumerate(report.findings)
    }


def _most(finding: Finding) -> int:
    """How many sets of images are shown for a finding."""
    return _SHEET if finding.check in _TO_JUDGE else _SETS


def _not_shown(finding: Finding, sets: list[list[_Row]]) -> int:
    """How many more images a finding has than are shown; 0 where none is shown."""
    return max(0, finding.count - len({row.path for rows in sets for row in rows})) if sets else 0


def _about_likes(report: ValidationReport) -> Iterable[Finding]:
    return (finding for finding in report.findings if finding.check in _WITH_LIKES)


def _chosen(
    finding: Finding, report: ValidationReport, rows: dict[str, _Row], likes: dict[str, list[_Row]]
) -> Iterator[list[_Row]]:
    seen: set[str] = set()
    for path in finding.paths[: _most(finding)]:
        row = rows[path]
        if finding.check not in _WITH_LIKES:
            yield [row]
            continue
        group = _group(report, row)
        if group not in seen:
            seen.add(group)
            others = [like for like in likes[group] if like.path != path]
            # What differs is the point: another label first.
            others.sort(key=lambda like: like.label == row.label)
            yield [row, *others[: _IN_A_SET - 1]]


def _group(report: ValidationReport, row: _Row) -> str:
    return report.groups.get(row.id, row.id)


def _rows(folder: Path) -> Iterator[_Row]:
    import pyarrow.parquet

    columns = ["path", "label", "id", "reason"]
    with pyarrow.parquet.ParquetFile(folder / "manifest.parquet") as file:
        for batch in file.iter_batches(_BLOCK, columns=columns):
            yield from map(_Row, *(batch.column(name).to_pylist() for name in columns))


def _shown(source: Source, row: _Row, note: str) -> Shown:
    if row.reason is not None:
        return Shown(row.path, row.label, "", row.reason, note)
    try:
        data = source.read(row.path)
        return Shown(row.path, row.label, base64.b64encode(_thumbnail(data)).decode(), "", note)
    except (OSError, ValueError):
        return Shown(row.path, row.label, "", "it cannot be read any more", note)


def _thumbnail(data: bytes) -> bytes:
    """A small upright JPEG; tiny images are enlarged without smoothing, to show their pixels."""
    with images.opened(data, max_pixels=1 << 40) as image, images.decoding("it"):
        turn = images.orientation(image, data)
        image.draft(image.mode, (_SIDE, _SIDE))
        image.load()
        small = images.upright(images.flat(image), turn)
    scale = _SIDE / max(small.size)
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))), how)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
