"""Inferred expectations: a fresh sample of the same meets them, a changed one does not, and both are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pergola.components.artifacts.data import ValidationReport
from pergola.components.data.checks.validate import ValidateSettings, validate
from pergola.components.data.expectations import infer, rules
from pergola.components.data.manifest.scan import ScanSettings, scan
from pergola.components.data.sources.source import open_source
from pergola.components.errors import InputError
from tests.support.images import jpeg, pixels, png, write_folder


def scanned(root: Path, work: Path) -> Path:
    scan(open_source(root, ScanSettings(), work / "scratch"), work / "m", ScanSettings())
    return work / "m"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The first data set's profile, and its expectations in a file."""
    work = tmp_path_factory.mktemp("infer")
    profile = infer.infer(scanned(write_folder(work / 'p "ü"', classes=3, per_class=60), work))
    (work / "e.toml").write_text(infer.to_toml(profile), encoding="utf-8")
    return profile, work / "e.toml"


def held(root: Path, work: Path, file: Path) -> tuple[ValidationReport, dict[str, str]]:
    report = validate(scanned(root, work), ValidateSettings(expectations=str(file)))
    return report, {finding.check: finding.severity for finding in report.findings}


def test_infer_writes_a_file_of_rules_with_those_that_come_with_pergola(first):
    profile, file = first
    found = rules.load(file)
    default = rules.load(rules.DEFAULT)
    assert found.images[: len(default.images)] == default.images
    assert {rule.check for rule in found.images[len(default.images) :]} == {
        "inferred_width", "inferred_height", "inferred_aspect", "inferred_bytes", "inferred_brightness",
        "inferred_contrast", "inferred_sharpness", "inferred_format", "inferred_mode",
    }  # fmt: skip
    assert found.shares == profile.shares == {f"class_{i}": 0.3333 for i in range(3)}
    assert profile.ranges["width"] == (24, 24) and profile.texts["format"] == ("PNG",)
    low, high = profile.ranges["brightness"]
    assert 0 < low < high < 255 and f"{low:g} to {high:g}" in found.images[-5].message


@pytest.mark.slow
def test_another_sample_of_the_same_meets_the_expectations(first, tmp_path):
    for seed in (1, 2):
        root = write_folder(tmp_path / f"p{seed}", classes=3, per_class=60, seed=seed)
        report, findings = held(root, tmp_path / str(seed), first[1])
        assert report.ok and not {name for name in findings if "inferred" in name or "class" in name}, (
            findings
        )
        assert infer.changes(rules.load(first[1]), infer.infer(tmp_path / str(seed) / "m")) == ()


def test_a_changed_data_set_does_not(first, tmp_path):
    root = write_folder(tmp_path / "p", classes=2, per_class=60, seed=5)
    (root / "class_9").mkdir()
    for number in range(25):
        (root / f"class_9/{number}.jpg").write_bytes(jpeg(pixels(2, number, size=24, seed=9)))
    for number in range(30):
        dark = (pixels(0, number, seed=5) * 0.2).astype(np.uint8)
        (root / f"class_0/{number:03}.png").write_bytes(png(dark))
    report, findings = held(root, tmp_path, first[1])
    assert not report.ok
    assert findings["new_class"] == findings["missing_class"] == "critical"
    assert not {"too_few", "imbalance"} & findings.keys()  # of a class that is not there
    assert findings["inferred_brightness"] == findings["inferred_format"] == "warning"
    messages = {finding.check: finding.message for finding in report.findings}
    assert "'class_9: 25'" in messages["new_class"] and "'class_2: 0'" in messages["missing_class"]
    changed = {change.what: (change.expected, change.now) for change in
               infer.changes(rules.load(first[1]), infer.infer(tmp_path / "m"))}  # fmt: skip
    assert changed["class class_2"] == ("33.3% of the images", "absent")
    assert changed["format"] == ("PNG", "JPEG, PNG") and "brightness" in changed


def test_a_class_whose_share_fell_is_said(first, tmp_path):
    root = write_folder(tmp_path / "p", classes=3, per_class=60, seed=3)
    for number in range(40):
        (root / f"class_1/{number:03}.png").unlink()
    _, findings = held(root, tmp_path, first[1])
    assert findings["class_share"] == "warning"


def test_names_of_classes_survive_the_file(tmp_path):
    labels = ['a "b"', "c\\d", "é\u007f", "x.y"]
    profile = infer.Profile(100, {}, {}, dict.fromkeys(labels, 0.25))
    (tmp_path / "e.toml").write_text(infer.to_toml(profile), encoding="utf-8")
    found = rules.load(tmp_path / "e.toml")
    assert list(found.shares) == labels
    assert next(rule for rule in found.classes if rule.check == "new_class").arguments["value_set"] == labels


@pytest.mark.parametrize("text", ["shares = 3", "[shares]\na = 2", '[shares]\na = "much"'])
def test_shares_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "e.toml").write_text(text)
    with pytest.raises(InputError, match=r"\[shares\]: expected a share from 0 to 1"):
        rules.load(tmp_path / "e.toml")
