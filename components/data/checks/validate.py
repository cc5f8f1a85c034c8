"""What is wrong with the data, and which images stay out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pergola.components.artifacts.data import CRITICAL, INFO, WARNING, Finding, Manifest, ValidationReport
from pergola.components.data.checks.manifest_index import NO_IMAGE, Facts, gather, texts
from pergola.components.data.checks.series import joined, objects_of
from pergola.components.data.expectations import rules
from pergola.components.data.expectations.great_expectations import Checker
from pergola.components.data.expectations.own_rules import OwnChecker
from pergola.components.data.expectations.rules import Rule
from pergola.components.data.manifest.relabel import TAKEN_OUT
from pergola.components.records import setting

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 25_000
_PATHS = 100  # named in a finding
_TONE = 2.0  # contrast below which an image is of one tone
_COLUMNS = [
    "path", "label", "given_split", "format", "mode", "width", "height", "bytes", "orientation",
    "brightness", "contrast", "sharpness", "reason",
]  # fmt: skip
_MEASURED = ["width", "height", "orientation", "brightness", "contrast", "sharpness"]


@dataclass(frozen=True)
class ValidateSettings:
    """Which expectations the data must meet, and how much of it may be left out."""

    expectations: str = setting(
        "", "TOML file with the expectations; empty: those that come with pergola", file=True
    )
    max_quarantined: float = setting(
        0.2, "share of the files that may be lost to checks before the run stops", low=0.0, high=1.0
    )
    group_by: str = setting(
        "", "further column of a list whose equal values are one object, which stays in one part; empty: none"
    )
    label_errors: bool = setting(True, "look for wrong labels, and rank them in relabel.csv")
    outliers: bool = setting(True, "look for images unlike any other; wants pretrained weights")
    crops: bool = setting(True, "look for images that are a part of another one")
    shortcuts: bool = setting(True, "look for classes that metadata or a border alone would give away")
    embedding: str = setting(
        "auto",
        "by what images are compared: auto, by model.weights' network where it is named; plain, by shape "
        "and colour",
        choices=("auto", "plain"),
    )
    max_looked_at: int = setting(
        20_000, "images that these look at, drawn by chance; 0: none", low=0, high=1_000_000
    )


def validate(manifest_folder: Path, settings: ValidateSettings) -> ValidationReport:
    """Findings, quarantined files and groups of near-duplicates of a manifest.

    Each expectation that fails is a finding. Files that a rule quarantines stay out; an exact copy whose
    original stays is not lost. When more than `max_quarantined` of the files are lost, that is critical, too.
    Raises InputError for expectations that cannot be run, and for a column that there is not.
    """
    wanted = rules.load(Path(settings.expectations) if settings.expectations else rules.DEFAULT)
    check = Checker if settings.expectations else OwnChecker
    manifest = Manifest.load(manifest_folder)
    facts = gather(manifest_folder)
    failed = _failing_files(manifest_folder, facts, check(wanted.images))
    out = _quarantined(wanted.images, failed, manifest.num_rows)
    findings = [
        _finding(rule, rows, manifest.num_rows, texts(manifest_folder, "path", rows[:_PATHS]))
        for rule, rows in zip(wanted.images, failed, strict=True)
        if _is_finding(rule, len(rows), manifest.num_rows)
    ]
    classes = _with_expected(_classes(manifest_folder, facts, out, manifest.labels), wanted.shares)
    findings += _findings_on_classes(classes, check(wanted.classes))
    findings += _too_many(facts, out, manifest.num_rows, settings.max_quarantined)
    quarantined, groups = _named(manifest_folder, out), _group_ids(manifest_folder, facts)
    if settings.group_by:
        objects = objects_of(manifest_folder, settings.group_by, quarantined)
        groups = joined(groups, objects.pairs())
        findings += filter(None, [objects.finding()])
    return ValidationReport(
        ok=all(finding.severity != CRITICAL for finding in findings),
        findings=worst_first(findings),
        quarantined=quarantined,
        num_images=manifest.num_rows,
        counts={
            str(label): int(count) for label, count in zip(classes["label"], classes["images"], strict=True)
        },
        groups=groups,
    )


def worst_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Critical ones, warnings, then what only tells."""
    rank = (CRITICAL, WARNING, INFO)
    return tuple(sorted(findings, key=lambda finding: rank.index(finding.severity)))


def _failing_files(folder: Path, facts: Facts, checker: Checker | OwnChecker) -> list[np.ndarray]:
    """For each rule the rows of the files that fail it, ascending."""
    failed: list[list[int]] = [[] for _ in checker.rules]
    for start, table in _tables(folder, facts):
        for rows, places in zip(failed, checker.failing(table), strict=True):
            rows += [start + place for place in places]
    return [np.array(rows, np.int64) for rows in failed]


def _tables(folder: Path, facts: Facts) -> Iterator[tuple[int, pd.DataFrame]]:
    """The columns that expectations may name, block by block, see expectations.toml."""
    import pyarrow.parquet

    start = 0
    with pyarrow.parquet.ParquetFile(folder / "manifest.parquet") as file:
        for batch in file.iter_batches(_BLOCK, columns=_COLUMNS):
            table = batch.to_pandas()
            yield start, _with_facts(table, facts, start)
            start += len(table)


def _with_facts(table: pd.DataFrame, facts: Facts, start: int) -> pd.DataFrame:
    rows = np.arange(start, start + len(table))
    image = facts.image[rows]
    readable = image != NO_IMAGE
    some = np.where(readable, image, 0)

    def of_image(values: np.ndarray) -> np.ndarray:
        return np.where(readable, values[some], np.nan) if len(values) else np.full(len(rows), np.nan)

    for column in _MEASURED:
        table[column] = table[column].astype(np.float64).where(readable)
    table["labels"] = of_image(facts.labels)
    copies = (of_image(facts.first) != rows) & (table["labels"] == 1)
    table["copies"] = copies.astype(np.float64).where(readable)
    for column in ("near_copies", "near_labels", "splits"):
        table[column] = of_image(getattr(facts, column))
    # An image under two labels is a conflict of its own, not a near one.
    table["near_labels"] = table["near_labels"].mask(table["labels"] > 1)
    taken_out = table["reason"] == TAKEN_OUT
    table["taken_out"] = taken_out.astype(np.float64)
    table["reason"] = table["reason"].mask(taken_out)
    table["side"] = table[["width", "height"]].min(axis=1)
    longer = table[["width", "height"]].max(axis=1)
    table["aspect"] = longer / table["side"]
    table["scale"] = np.maximum(longer / facts.median_side, facts.median_side / longer)
    table["grain"] = table["sharpness"] / table["contrast"].where(table["contrast"] >= _TONE) ** 2
    table["shadows"] = table["brightness"] - 2 * table["contrast"]
    table["highlights"] = table["brightness"] + 2 * table["contrast"]
    return table


def _is_finding(rule: Rule, count: int, total: int) -> bool:
    return count > 0 and count > rule.tolerate * total


def _finding(rule: Rule, rows: np.ndarray, total: int, paths: list[str]) -> Finding:
    message = rule.sentence(len(rows), total, paths)
    return Finding(rule.check, rule.severity, len(rows), tuple(paths), message)


def _quarantined(wanted: tuple[Rule, ...], failed: list[np.ndarray], total: int) -> dict[int, str]:
    """Row -> name of the check that keeps it out, the first one that does."""
    out: dict[int, str] = {}
    for rule, rows in zip(wanted, failed, strict=True):
        if rule.quarantine and _is_finding(rule, len(rows), total):
            for row in rows.tolist():
                out.setdefault(row, rule.check)
    return out


def _named(folder: Path, out: dict[int, str]) -> dict[str, str]:
    rows = np.array(sorted(out), np.int64)
    return {path: out[row] for path, row in zip(texts(folder, "path", rows), rows.tolist(), strict=True)}


def _classes(folder: Path, facts: Facts, out: dict[int, str], labels: tuple[str, ...]) -> pd.DataFrame:
    """A row a class: label, images and groups that are left, share of the largest class's images."""
    import pandas as pd

    left = np.ones(len(facts.image), bool)
    left[np.array(sorted(out), np.int64)] = False
    places = {label: place for place, label in enumerate(labels)}
    held: list[np.ndarray] = [np.zeros((0, 2), np.int64)]
    for start, table in _labels(folder):
        image = facts.image[start : start + len(table)]
        keep = left[start : start + len(table)] & (image != NO_IMAGE)
        numbers = table.map(places).fillna(NO_IMAGE).to_numpy(np.int64)
        held.append(np.unique(np.stack([numbers[keep], image[keep]], axis=1), axis=0))
    pairs = np.unique(np.concatenate(held), axis=0)
    grouped = np.unique(np.stack([pairs[:, 0], facts.group[pairs[:, 1]]], axis=1), axis=0)
    images = np.bincount(pairs[:, 0], minlength=len(labels))
    groups = np.bincount(grouped[:, 0], minlength=len(labels))
    share = images / max(1, images.max(initial=0))
    return pd.DataFrame({"label": list(labels), "images": images, "groups": groups, "share": share})


def _with_expected(classes: pd.DataFrame, shares: Mapping[str, float]) -> pd.DataFrame:
    """With a row for each expected class that is missing, and by what factor each class's share changed.

    What a class is that is not there, in groups and share, is missing as well: no rule is to find it rare.
    """
    import pandas as pd

    missing = [label for label in shares if label not in set(classes["label"])]
    rows = pd.DataFrame({"label": missing, "images": 0, "groups": np.nan, "share": np.nan})
    classes = pd.concat([classes, rows], ignore_index=True) if missing else classes
    total = max(1, int(classes["images"].sum()))
    pairs = zip(classes["label"], classes["images"], strict=True)
    return classes.assign(change=[share_change(label, count / total, shares) for label, count in pairs])


def share_change(label: str, share: float, expected: Mapping[str, float]) -> float:
    """By what factor a class's share went up or down, 1 or more; nan when it was absent before or is now."""
    before = expected.get(label, 0.0)
    return max(before / share, share / before) if before and share else math.nan


def _labels(folder: Path) -> Iterator[tuple[int, pd.Series[str]]]:
    import pyarrow.parquet

    start = 0
    with pyarrow.parquet.ParquetFile(folder / "manifest.parquet") as file:
        for batch in file.iter_batches(_BLOCK, columns=["label"]):
            yield start, batch.to_pandas()["label"]
            start += len(batch)


def _findings_on_classes(classes: pd.DataFrame, checker: Checker | OwnChecker) -> list[Finding]:
    """One finding a failed rule; of two rules with one name the graver one counts."""
    findings: dict[str, Finding] = {}
    for rule, places in zip(checker.rules, checker.failing(classes), strict=True):
        if not _is_finding(rule, len(places), len(classes)) or rule.check in findings:
            continue
        names = [f"{classes['label'][place]}: {classes['images'][place]}" for place in places]
        message = rule.sentence(len(places), len(classes), names)
        if rule.check == "imbalance":
            message += _what_training_does(classes)
        findings[rule.check] = Finding(rule.check, rule.severity, len(places), (), message)
    return list(findings.values())


def _what_training_does(classes: pd.DataFrame) -> str:
    """The effect of class weights (components/training/input/training_data.py), in a sentence."""
    present = classes[classes["images"] > 0]
    if len(present) < 2:
        return ""
    images = present["images"].to_numpy()
    rare, common = present.iloc[int(images.argmin())], present.iloc[int(images.argmax())]
    return (
        f" Unless train.balance is off, an image of '{rare['label']}' counts "
        f"{common['images'] / rare['images']:.1f} times one of '{common['label']}' in training; "
        "the report's recall of each class, with its interval, shows what that is worth."
    )


def _too_many(facts: Facts, out: dict[int, str], total: int, limit: float) -> list[Finding]:
    """A critical finding when too many files are lost; a copy whose original stays is not lost."""
    left = np.ones(total, bool)
    left[np.array(sorted(out), np.int64)] = False
    still_there = np.zeros(len(facts.first) + 1, bool)  # the last one stands for NO_IMAGE
    still_there[facts.image[left]] = True
    still_there[NO_IMAGE] = False
    lost = int((~left & ~still_there[facts.image]).sum())
    if lost <= limit * total:
        return []
    message = (
        f"{lost:,} of {total:,} files would be left out, more than the share of {limit:g} that "
        f"validate.max_quarantined allows: mend the data, or raise the limit."
    )
    return [Finding("quarantine", CRITICAL, lost, (), message)]


def _group_ids(folder: Path, facts: Facts) -> dict[str, str]:
    """id -> the smallest id of its group, for images that have near copies."""
    members = np.flatnonzero(facts.near_copies > 0)
    ids = texts(folder, "id", facts.first[members])
    names: dict[int, str] = {}
    for group, id in zip(facts.group[members].tolist(), ids, strict=True):
        names[group] = min(id, names.get(group, id))
    return {id: names[group] for group, id in sorted(zip(facts.group[members].tolist(), ids, strict=True))}
