"""What the pictures show that the manifest cannot: labels that look wrong, pictures unlike any other, classes
that are given away.

Nothing here is critical and nothing is kept out: these are questions for a person, and each finding says what
its answer rests on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from components.artifacts import INFO, Finding, Manifest, ValidationReport
from components.data import label_errors, outliers, shortcuts
from components.data.contents import Contents, look
from components.data.embeddings import PLAIN, Embedding, embedding_for
from components.data.label_errors import LabelErrors
from components.data.outliers import Outliers
from components.data.relabel import RELABEL_FILE, read_relabel, write_relabel
from components.data.shortcuts import FIELDS, Shortcuts
from components.data.sources import Source
from components.data.validate import ValidateSettings, worst_first
from components.errors import InputError
from components.progress import Progress, silent

_READ_ONLY = 0o444


@dataclass(frozen=True)
class SecondLook:
    """What was looked for, and what was found. None: not looked for."""

    findings: tuple[Finding, ...]
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
        """The report with these findings, the worst first."""
        return replace(report, findings=worst_first([*report.findings, *self.findings]))


@dataclass(frozen=True)
class Network:
    """The one that is to be trained; where it is pretrained, pictures are compared by it."""

    architecture: str = "auto"
    weights: str = ""


NOTHING = SecondLook((), None, None, None)


def examine(
    source: Source,
    manifest_folder: Path,
    report: ValidationReport,
    settings: ValidateSettings,
    network: Network,
    relabel: str = "",
    progress: Progress = silent,
) -> SecondLook:
    """Look at the pictures, and check what the settings ask for.

    relabel: a file of corrections; pictures in it were judged by a person and are not suspected again.
    Raises InputError for weights or a file of corrections that cannot be read.
    """
    wanted = settings.label_errors or settings.outliers or settings.shortcuts
    if not (settings.max_looked_at and wanted):
        return NOTHING
    auto = settings.embedding == "auto"
    embedding = embedding_for(network.architecture, network.weights) if auto else PLAIN
    contents = look(
        source,
        manifest_folder,
        report,
        max_images=settings.max_looked_at,
        network=embedding.network,
        side=embedding.side,
        progress=progress,
    )
    known = _judged(manifest_folder, relabel) if relabel else ()
    return second_look(contents, manifest_folder, report, settings, embedding, known)


def _judged(manifest_folder: Path, relabel: str) -> Collection[str]:
    """Ids of pictures that the corrections speak of. Raises InputError when none is of this data."""
    known = read_relabel(Path(relabel), Manifest.load(manifest_folder).labels).keys()
    if known and not known & set(Manifest.table(manifest_folder, ["id"])["id"]):
        raise InputError(
            f"scan.relabel: none of the {len(known)} corrections in {relabel} belongs to a picture of this "
            "data. Was it written for other pictures?"
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
        return NOTHING
    wrong = _label_errors(contents, report).without(known) if settings.label_errors else None
    far = _outliers(contents, report) if settings.outliers and embedding.is_pretrained else None
    grey = _grey(contents) if settings.outliers else None
    given = _shortcuts(contents, manifest_folder, report) if settings.shortcuts else None
    found = (
        label_errors.finding(wrong, embedding.basis) if wrong else None,
        outliers.finding(far) if far else None,
        grey,
        *(shortcuts.findings(given) if given else ()),
        _partly(contents),
    )
    return SecondLook(tuple(finding for finding in found if finding), wrong, far, given)


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


def _partly(contents: Contents) -> Finding | None:
    """That not all pictures were looked at, where that is so."""
    if len(contents.ids) == contents.num_usable:
        return None
    message = (
        f"Label errors, outliers and shortcuts were looked for in {len(contents.ids):,} of "
        f"{contents.num_usable:,} pictures, drawn by chance: validate.max_looked_at sets how many."
    )
    return Finding("looked_at", INFO, len(contents.ids), (), message)
