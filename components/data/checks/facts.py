"""What checks look at, and what they give back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.artifacts.data import Finding, Manifest
from pergola.components.artifacts.record import Record
from pergola.components.data.checks.image_features import ImageFeatures, extract_features
from pergola.components.data.checks.settings import ValidateSettings
from pergola.components.data.expectations import rules
from pergola.components.data.expectations.class_table import class_table
from pergola.components.data.expectations.file_table import check_files
from pergola.components.data.expectations.great_expectations import Checker
from pergola.components.data.expectations.own_rules import OwnChecker
from pergola.components.data.expectations.rules import Expectation, Outcome, Rules
from pergola.components.data.manifest.index import ManifestIndex, build_index, texts
from pergola.components.data.manifest.relabel import read_relabel
from pergola.components.data.manifest.series import Series, merge_groups, read_series
from pergola.components.data.sources.source import Source
from pergola.components.errors import InputError
from pergola.components.imaging.crop_matching import crop_pairs
from pergola.components.imaging.embeddings import PLAIN, Embedding, embedding_for
from pergola.components.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

MAX_PATHS = 100  # named in a finding


@dataclass(frozen=True)
class CheckResult:
    """The findings of a check and, where it has one, the record with its details."""

    findings: tuple[Finding, ...] = ()
    record: Record | None = None


@dataclass(frozen=True)
class ImageAccess:
    """How checks read the images themselves.

    architecture, weights: of the model to be trained; where it is pretrained, it compares the images.
    relabel: a file of corrections; labels in it were reviewed by a person and are not suspected again.
    """

    source: Source
    architecture: str = "auto"
    weights: str = ""
    relabel: str = ""
    progress: Progress = silent


class Facts:
    """A manifest and, with `images`, its images. Everything is computed when a check first asks for it."""

    def __init__(
        self, manifest_folder: Path, settings: ValidateSettings, images: ImageAccess | None = None
    ) -> None:
        self.folder = manifest_folder
        self.settings = settings
        self.images = images
        self.manifest = Manifest.load(manifest_folder)

    @cached_property
    def rules(self) -> Rules:
        """The expectations. Raises InputError when they cannot be read."""
        return rules.load(Path(self.settings.expectations) if self.settings.expectations else rules.DEFAULT)

    def checker(self, wanted: Sequence[Expectation]) -> Checker | OwnChecker:
        """Runs rules. Great Expectations, which is slow to import, runs only those of a person's own file."""
        return Checker(wanted) if self.settings.expectations else OwnChecker(wanted)

    @cached_property
    def index(self) -> ManifestIndex:
        """Copies, label conflicts and near-duplicates."""
        return build_index(self.folder)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """What each rule on files found."""
        return check_files(self.folder, self.index, self.checker(self.rules.images))

    @cached_property
    def excluded(self) -> Mapping[int, str]:
        """Row of each excluded file -> the check that excludes it, the first one that does."""
        excluded: dict[int, str] = {}
        for rule, outcome in zip(self.rules.images, self.outcomes, strict=True):
            if rule.quarantine and rule.is_violated(outcome):
                for row in outcome.rows:
                    excluded.setdefault(row, rule.check)
        return excluded

    @cached_property
    def used(self) -> np.ndarray:
        """Which files are not excluded, bool (rows,)."""
        used = np.ones(self.manifest.num_rows, bool)
        used[np.array(sorted(self.excluded), np.int64)] = False
        return used

    @cached_property
    def quarantined(self) -> Mapping[str, str]:
        """Path of each excluded file -> the check that excludes it."""
        rows = np.array(sorted(self.excluded), np.int64)
        paths = texts(self.folder, "path", rows)
        return {path: self.excluded[row] for path, row in zip(paths, rows.tolist(), strict=True)}

    @cached_property
    def classes(self) -> pd.DataFrame:
        """A row per class, see components/data/expectations/class_table.py."""
        return class_table(self.folder, self.index, self.used, self.manifest.labels, self.rules.shares)

    @cached_property
    def series(self) -> Series | None:
        """Images of one object, where validate.group_by names a column."""
        column = self.settings.group_by
        return read_series(self.folder, column, self.quarantined) if column else None

    @cached_property
    def groups(self) -> Mapping[str, str]:
        """id -> smallest id of its group, for images that must stay in one split."""
        groups = _near_duplicates(self.folder, self.index)
        if self.series:
            groups = merge_groups(groups, self.series.pairs())
        if self.features:
            ids = self.features.ids
            groups = merge_groups(groups, [(ids[a], ids[b]) for a, b in self.crops.tolist()])
        return groups

    @cached_property
    def embedding(self) -> Embedding:
        """How images are compared. Raises InputError for weights that cannot be read."""
        if self.images is None or self.settings.embedding != "auto":
            return PLAIN
        return embedding_for(self.images.architecture, self.images.weights)

    @cached_property
    def features(self) -> ImageFeatures | None:
        """The features of the usable images; None when no image can be read or no check needs them."""
        if self.images is None or not _reads_images(self.settings):
            return None
        _, embedding = self.reviewed, self.embedding  # both raise before any image is read
        features = extract_features(
            self.images.source,
            self.folder,
            self.quarantined,
            max_images=self.settings.max_inspected,
            network=embedding.network,
            side=embedding.side,
            keypoints=self.settings.crops,
            progress=self.images.progress,
        )
        return features if features.ids else None

    @cached_property
    def crops(self) -> np.ndarray:
        """Pairs of images of which one is a crop of the other, int64 (M, 2), indices of the features."""
        if self.features is None or not self.settings.crops:
            return np.zeros((0, 2), np.int64)
        return crop_pairs(self.features.keypoints)

    @cached_property
    def reviewed(self) -> Collection[str]:
        """Ids of images whose labels a person has reviewed. Raises InputError when none is in this data."""
        file = self.images.relabel if self.images else ""
        if not file:
            return ()
        ids = read_relabel(Path(file), self.manifest.labels).keys()
        if ids and not ids & set(self.table(["id"])["id"]):
            raise InputError(
                f"scan.relabel: none of the {len(ids)} corrections in {file} belongs to an image of this "
                "data. Was it written for other images?"
            )
        return ids

    def table(self, columns: list[str]) -> pd.DataFrame:
        """Columns of the manifest."""
        return Manifest.table(self.folder, columns)


def _reads_images(settings: ValidateSettings) -> bool:
    switched_on = settings.label_errors or settings.outliers or settings.shortcuts or settings.crops
    return bool(settings.max_inspected and switched_on)


def _near_duplicates(folder: Path, index: ManifestIndex) -> dict[str, str]:
    """id -> the smallest id of its group, for images that have near-duplicates."""
    members = np.flatnonzero(index.near_copies > 0)
    ids = texts(folder, "id", index.first[members])
    names: dict[int, str] = {}
    for group, id in zip(index.group[members].tolist(), ids, strict=True):
        names[group] = min(id, names.get(group, id))
    return {id: names[group] for group, id in sorted(zip(index.group[members].tolist(), ids, strict=True))}
