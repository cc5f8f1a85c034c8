"""What the images show that the manifest cannot: labels that look wrong, images unlike any other, classes
that are given away.

Nothing here is critical and nothing is kept out: these are questions for a person, and each finding says what
its answer rests on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import INFO, WARNING, Finding, Manifest, ValidationReport
from pergola.components.data.checks import label_errors, outliers, shortcuts
from pergola.components.data.checks.crops import crop_pairs
from pergola.components.data.checks.image_features import Contents, look
from pergola.components.data.checks.label_errors import LabelErrors
from pergola.components.data.checks.outliers import Outliers
from pergola.components.data.checks.series import joined
from pergola.components.data.checks.shortcuts import FIELDS, Shortcuts
from pergola.components.data.checks.validate import ValidateSettings, worst_first
from pergola.components.data.manifest.relabel import RELABEL_FILE, read_relabel, write_relabel
from pergola.components.data.sources.source import Source
from pergola.components.errors import InputError
from pergola.components.imaging.embeddings import PLAIN, Embedding, embedding_for
from pergola.components.progress import Progress, silent

_READ_ONLY = 0o444
_EXAMPLES = 6  # images of a class that is given away


@dataclass(frozen=True)
class SecondLook:
    """What was looked for, and what was found. None: not looked for."""

    findings: tuple[Finding, ...]
    groups: Mapping[str, str]  # id -> group, with crops; otherwise those of the report
    label_errors: LabelErrors | None
    outliers: Outliers | None
    shortcuts: Shortcuts | None

    def save(self, folder: Path) -> None:
        """The records, and the ranked list that a person copies and edits."""
        for record in (self.label_errors, self.outliers, self.shortcuts):
            if record is not None:
                record.save(folder)
        if self.label_errors is not None:
            write_relabel(self.label_errors.suspects, folder / RELABEL_FILE)
            (folder / RELABEL_FILE).chmod(_READ_ONLY)  # edits in here would be lost: it is to be copied

    def added_to(self, report: ValidationReport) -> ValidationReport:
        """The report with these findings, the worst first, and these groups."""
        findings = worst_first([*report.findings, *self.findings])
        return replace(report, findings=findings, groups=self.groups)


@dataclass(frozen=True)
class Network:
    """The one that is to be trained; where it is pretrained, images are compared by it."""

    architecture: str = "auto"
    weights: str = ""


def examine(
    source: Source,
    manifest_folder: Path,
    report: ValidationReport,
    settings: ValidateSettings,
    network: Network,
    relabel: str = "",
    progress: Progress = silent,
) -> SecondLook:
    """Look at the images, and check what the settings ask for.

    relabel: a file of corrections; images in it were judged by a person and are not suspected again.
    Raises InputError for weights or a file of corrections that cannot be read.
    """
    wanted = settings.label_errors or settings.outliers or settings.shortcuts or settings.crops
    if not (settings.max_looked_at and wanted):
        return nothing(report)
    auto = settings.embedding == "auto"
    embedding = embedding_for(network.architecture, network.weights) if auto else PLAIN
    contents = look(
        source,
        manifest_folder,
        report,
        max_images=settings.max_looked_at,
        network=embedding.network,
        side=embedding.side,
        points=settings.crops,
        progress=progress,
    )
    known = _judged(manifest_folder, relabel) if relabel else ()
    return second_look(contents, manifest_folder, report, settings, embedding, known)


def _judged(manifest_folder: Path, relabel: str) -> Collection[str]:
    """Ids of images that the corrections speak of. Raises InputError when none is of this data."""
    known = read_relabel(Path(relabel), Manifest.load(manifest_folder).labels).keys()
    if known and not known & set(Manifest.table(manifest_folder, ["id"])["id"]):
        raise InputError(
            f"scan.relabel: none of the {len(known)} corrections in {relabel} belongs to an image of this "
            "data. Was it written for other images?"
        )
    return known


def second_look(
    contents: Contents,
    manifest_folder: Path,
    report: ValidationReport,
    settings: ValidateSettings,
    embedding: Embedding = PLAIN,
    known: Collection[str] = (),
) -> SecondLook:
    """The checks that the settings ask for. known: ids that are not suspected any more."""
    if not contents.ids:
        return nothing(report)
    pairs = crop_pairs(contents.points) if settings.crops else np.zeros((0, 2), np.int64)
    crops = [(contents.ids[a], contents.ids[b]) for a, b in pairs.tolist()]
    report = replace(report, groups=joined(report.groups, crops))
    wrong = _label_errors(contents, report).without(known) if settings.label_errors else None
    far = _outliers(contents, report) if settings.outliers and embedding.is_pretrained else None
    grey = _grey(contents) if settings.outliers else None
    given = _shortcuts(contents, manifest_folder, report) if settings.shortcuts else None
    found = (
        label_errors.finding(wrong, embedding.basis) if wrong else None,
        outliers.finding(far) if far else None,
        grey,
        *_crops(contents, manifest_folder, pairs),
        *(shortcuts.findings(given, _examples(contents)) if given else ()),
        _partly(contents),
    )
    return SecondLook(tuple(finding for finding in found if finding), report.groups, wrong, far, given)


def nothing(report: ValidationReport) -> SecondLook:
    """Where nothing is looked for."""
    return SecondLook((), report.groups, None, None, None)


def _crops(
    contents: Contents, manifest_folder: Path, pairs: npt.NDArray[np.integer]
) -> Iterator[Finding | None]:
    """What crops there are; those in two parts of a given split, and those under two labels, are graver."""
    splits = Manifest.table(manifest_folder, ["given_split"])["given_split"].fillna("").iloc[contents.rows]
    labels, given = np.array(contents.labels), splits.to_numpy(dtype=np.str_)
    first, second = pairs.T
    leak = (given[first] != given[second]) & (given[first] != "") & (given[second] != "")
    told = (
        ("crop_split_leak", WARNING, leak, "in two parts of the given split: results look better than they "
         "are. Take them out of one part."),
        ("crop_label_conflict", WARNING, labels[first] != labels[second], "under two labels: check them."),
        ("crop", INFO, np.ones(len(pairs), bool), "of the data: they are kept in one part of the split."),
    )  # fmt: skip
    for check, severity, some, words in told:
        paths = tuple(dict.fromkeys(contents.paths[place] for place in pairs[some].ravel().tolist()))
        if paths:
            what = f"{len(paths):,} images, such as '{paths[0]}', are a part of another one, or have one,"
            message = f"{what} {words}"
            yield Finding(check, severity, len(paths), paths[:100], message)


def _label_errors(contents: Contents, report: ValidationReport) -> LabelErrors:
    c = contents
    return label_errors.find_label_errors(c.vectors, c.ids, c.paths, c.labels, report.groups)


def _outliers(contents: Contents, report: ValidationReport) -> Outliers:
    c = contents
    return outliers.find_outliers(c.vectors, c.ids, c.paths, c.labels, report.groups)


def _grey(contents: Contents) -> Finding | None:
    grey = np.flatnonzero(outliers.grey_among_colour(contents.colours))
    return outliers.grey_finding([contents.paths[place] for place in grey], len(contents.ids))


def _shortcuts(contents: Contents, manifest_folder: Path, report: ValidationReport) -> Shortcuts:
    columns = [column for columns in FIELDS.values() for column in columns]
    table = Manifest.table(manifest_folder, ["id", *columns]).iloc[contents.rows]
    return shortcuts.find_shortcuts(table.assign(label=contents.labels), contents.borders, report.groups)


def _examples(contents: Contents) -> dict[str, list[str]]:
    """A few paths of each class."""
    found: dict[str, list[str]] = {}
    for label, path in zip(contents.labels, contents.paths, strict=True):
        some = found.setdefault(label, [])
        if len(some) < _EXAMPLES:
            some.append(path)
    return found


def _partly(contents: Contents) -> Finding | None:
    """That not all images were looked at, where that is so."""
    if len(contents.ids) == contents.num_usable:
        return None
    message = (
        f"Label errors, outliers and shortcuts were looked for in {len(contents.ids):,} of "
        f"{contents.num_usable:,} images, drawn by chance: validate.max_looked_at sets how many."
    )
    return Finding("looked_at", INFO, len(contents.ids), (), message)
