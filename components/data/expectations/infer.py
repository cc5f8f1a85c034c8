"""Expectations inferred from a first data set, for a person to review and to check later data sets against.

    infer(manifest folder)          -> a profile of the data set
    to_toml(profile)                -> an expectations file: those that come with pergola, then these
    changes(old rules, profile)     -> how another data set differs

A number is expected in the range that holds 99% of the first data set's images. A later data set may have 5%
outside (1% would be usual) before that is a finding. Classes are expected to be the same, each with half to
twice its share. Nothing is inferred about copies or unreadable files: one data set's faults are no reason to
expect them in the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pergola.components.artifacts.data import CRITICAL, WARNING, Manifest
from pergola.components.data.expectations import rules
from pergola.components.data.expectations.rules import Expectation, Rules

MARK = "inferred_"  # prefix of an inferred rule's check
MIN_IMAGES = 50
_OUTSIDE = 0.005  # share of the first data set below, and above, the expected range
_TOLERATED = 0.05
_FACTOR = 2.0  # by which a class's share may change
_BETWEEN, _IN_SET = "expect_column_values_to_be_between", "expect_column_values_to_be_in_set"
_NUMBERS = ("width", "height", "aspect", "bytes", "brightness", "contrast", "sharpness")
_TEXTS = ("format", "mode")

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Profile:
    """Ranges, values and classes of a data set."""

    num_images: int  # readable
    ranges: Mapping[str, tuple[float, float]]  # column -> the range of 99% of the images
    texts: Mapping[str, tuple[str, ...]]  # column -> values that occur
    shares: Mapping[str, float]  # class -> share of the images


def infer(manifest_folder: Path) -> Profile:
    """The profile of the readable images of a manifest."""
    columns = {"label", "reason", *_NUMBERS, *_TEXTS} - {"aspect"}
    table = Manifest.table(manifest_folder, sorted(columns))
    table = table[table["reason"].isna()]
    sides = table[["width", "height"]]
    table["aspect"] = sides.max(axis=1) / sides.min(axis=1)
    counts = table["label"].value_counts(normalize=True)
    return Profile(
        num_images=len(table),
        ranges={column: _range(table[column].to_numpy(np.float64)) for column in _NUMBERS}
        if len(table)
        else {},
        texts={column: tuple(sorted(map(str, table[column].dropna().unique()))) for column in _TEXTS},
        shares={str(label): float(f"{share:.4g}") for label, share in sorted(counts.items())},
    )


def to_toml(profile: Profile) -> str:
    """An expectations file to be reviewed and committed."""
    default = rules.DEFAULT.read_text(encoding="utf-8").rstrip()
    lines = [
        default,
        "",
        f"# Inferred from {profile.num_images:,} images. Review each: is it intended, or chance?",
        "# Ranges hold 99% of the images; `tolerate` is the share of later images that may be outside.",
    ]
    for table, rule in inferred_rules(profile):
        lines += ["", f"[[{table}]]", *rules.toml_lines(rule)]
    lines += [
        "",
        "# Each class's share of the images, from which column `change` of [[classes]] is computed.",
        "[shares]",
    ]
    lines += [f"{rules.toml_text(label)} = {share}" for label, share in profile.shares.items()]
    return "\n".join(lines) + "\n"


def inferred_rules(profile: Profile) -> Iterable[tuple[str, Expectation]]:
    """The rules inferred from a data set, each with the TOML table that it belongs to."""
    for column, (low, high) in profile.ranges.items():
        limits = {"min_value": low, "max_value": high}
        message = (
            f"{{count}} of {{total}} images have a {column} outside {low:g} to {high:g}, the range of "
            "99% of the first data set, such as {names}."
        )
        rule = Expectation(f"{MARK}{column}", _BETWEEN, column, limits, WARNING, message, tolerate=_TOLERATED)
        yield "images", rule
    for column, values in profile.texts.items():
        message = (
            f"{{count}} of {{total}} images have a {column} that is not in the first data set "
            f"({', '.join(values)}), such as {{names}}."
        )
        wanted = {"value_set": list(values)}
        yield "images", Expectation(f"{MARK}{column}", _IN_SET, column, wanted, WARNING, message)
    for rule in _rules_on_classes(list(profile.shares)):
        yield "classes", rule


def _rules_on_classes(labels: list[str]) -> tuple[Expectation, ...]:
    return (
        Expectation("new_class", _IN_SET, "label", {"value_set": labels}, CRITICAL,
             "{count} of {total} classes are unknown: {names}. Retrain with them, or leave them out."),
        Expectation("missing_class", _BETWEEN, "images", {"min_value": 1}, CRITICAL,
             "{count} of {total} classes have no image: {names}."),
        Expectation("class_share", _BETWEEN, "change", {"max_value": _FACTOR}, WARNING,
             "{count} of {total} classes have less than half or more than twice their share: {names}."),
    )  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One difference between a data set and the expectations."""

    what: str  # column or class
    expected: str
    now: str


def changes(expected: Rules, profile: Profile) -> tuple[Change, ...]:
    """How a data set differs: ranges that moved, new values, new and missing classes, changed shares.

    A range has moved when the new one extends beyond it by more than a quarter of its width.
    """
    found: list[Change] = []
    for rule in expected.images:
        if not rule.check.startswith(MARK):
            continue
        if rule.column in profile.ranges and rule.expect == _BETWEEN:
            found += _moved(rule, profile.ranges[rule.column])
        elif rule.column in profile.texts and rule.expect == _IN_SET:
            found += _new_values(rule, profile.texts[rule.column])
    for label in sorted({*expected.shares, *profile.shares}):
        before, now = expected.shares.get(label, 0.0), profile.shares.get(label, 0.0)
        if not before or not now or max(before / now, now / before) > _FACTOR:
            found.append(Change(f"class {label}", _share(before), _share(now)))
    return tuple(found)


def _moved(rule: Expectation, now: tuple[float, float]) -> list[Change]:
    low, high = (float(rule.arguments.get(key, math.nan)) for key in ("min_value", "max_value"))
    slack = 0.25 * (high - low)
    inside = not (now[0] < low - slack or now[1] > high + slack)
    return [] if inside else [Change(rule.column, f"{low:g} to {high:g}", f"{now[0]:g} to {now[1]:g}")]


def _new_values(rule: Expectation, now: tuple[str, ...]) -> list[Change]:
    before = [str(value) for value in rule.arguments.get("value_set", ())]
    new = [value for value in now if value not in before]
    return [Change(rule.column, ", ".join(before), ", ".join(now))] if new else []


def _share(share: float) -> str:
    return f"{share:.1%} of the images" if share else "absent"


def _range(values: Floats) -> tuple[float, float]:
    """The range of 99% of the values, rounded outwards to three digits."""
    low, high = np.quantile(values, [_OUTSIDE, 1 - _OUTSIDE])
    return _down(float(low)), -_down(-float(high))


def _down(value: float) -> float:
    if value == 0:
        return 0.0
    scale = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return float(f"{math.floor(value / scale + 1e-9) * scale:.6g}")
