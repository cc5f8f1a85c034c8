"""Check: images that are a part of another one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pergola.components.artifacts.data import INFO, WARNING, Finding
from pergola.components.data.checks.facts import MAX_PATHS, CheckResult, Facts
from pergola.components.data.checks.image_features import ImageFeatures
from pergola.components.data.checks.settings import ValidateSettings


def check(facts: Facts, settings: ValidateSettings) -> CheckResult:
    """A finding for all crops; graver ones for those across a given split and those across labels."""
    features = facts.features
    if features is None:
        return CheckResult()
    splits = facts.table(["given_split"])["given_split"].fillna("").iloc[features.rows]
    return CheckResult(tuple(_findings(features, facts.crops, splits.to_numpy(dtype=np.str_))))


def _findings(features: ImageFeatures, pairs: np.ndarray, splits: np.ndarray) -> Iterator[Finding]:
    labels = np.array(features.labels)
    first, second = pairs.T
    leaks = (splits[first] != splits[second]) & (splits[first] != "") & (splits[second] != "")
    kinds = (
        ("crop_split_leak", WARNING, leaks, "in two splits of the given split: results look better than they "
         "are. Remove them from one split."),
        ("crop_label_conflict", WARNING, labels[first] != labels[second], "under two labels: check them."),
        ("crop", INFO, np.ones(len(pairs), bool), "in the data: they are kept in one split."),
    )  # fmt: skip
    for name, severity, chosen, ending in kinds:
        paths = tuple(dict.fromkeys(features.paths[image] for image in pairs[chosen].ravel().tolist()))
        if paths:
            start = f"{len(paths):,} images, such as '{paths[0]}', are a crop of another one, or have one,"
            yield Finding(name, severity, len(paths), paths[:MAX_PATHS], f"{start} {ending}")
